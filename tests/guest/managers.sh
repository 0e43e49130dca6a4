# Managers, pauses and statistics of a block device, by the control socket of its server.
# needs: fio
# modules: ublk_drv
# memory: 1024

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

reads() {
    within fio --name=reads --filename="$dev" --ioengine=io_uring --direct=1 --rw=randread --bs=4k --iodepth=16 --minimal "$@"
}

one_waits() { iomgr manager show --json | grep -q '"class_until": [1-9]'; }

# At one request a second they would take a thousand; they end when the bound is taken away.
freed_by_unset() {
    reads --number_ios=1000 >/dev/null &
    waiting=$!
    becomes one_waits
    seen=$?
    iomgr manager unset && wait $waiting && [ $seen = 0 ]
}

# Five seconds at 400 requests a second: within five percent of 2000.
rate_is_kept() {
    iomgr manager set throttle --iops 400 --device disk >/dev/null || return 1
    requests=$(($(reads --time_based --runtime=5 | cut -d';' -f6) / 4))
    echo "$requests requests"
    iomgr manager unset && [ $requests -ge 1900 ] && [ $requests -le 2100 ]
}

# A verified load goes on while one manager follows the other.
swapped_under_load() {
    within fio --name=load --filename="$dev" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=32 --size=64M \
        --verify=crc32c --verify_fatal=1 --minimal >/tmp/fio.out 2>&1 &
    load=$! swaps=0
    while kill -0 $load 2>/dev/null; do
        for policy in 'throttle --iops 5000 --device disk' wfq turn 'latency --protect disk --target 5ms' deadline 'limit --max 4' none; do
            within iomgr manager set $policy >/dev/null && swaps=$((swaps + 1))
        done
    done
    wait $load || { cat /tmp/fio.out && return 1; }
    echo "$swaps swaps"
    [ $swaps -ge 14 ]
}

nothing_is_pending() {
    iomgr status --json >/tmp/status
    grep '"pending"' /tmp/status && ! grep '"pending": *[1-9]' /tmp/status
}

# A verified load goes on through a pause, in which the image is copied.
paused_under_load() {
    within fio --name=load --filename="$dev" --ioengine=io_uring --direct=1 --rw=randwrite --bs=4k --iodepth=16 --size=16M \
        --verify=crc32c --verify_fatal=1 --minimal >/dev/null &
    load=$!
    within iomgr pause disk -- cp /tmp/disk.img /tmp/copy.img
    paused=$?
    wait $load && [ $paused = 0 ] && [ "$(stat -c %s /tmp/copy.img)" = $((64 << 20)) ]
}

watched() {
    lines=$(timeout -s INT 2 iomgr stats --watch 0.5 | grep -c '^disk ')
    echo "$lines lines"
    [ "$lines" -ge 2 ]
}

truncate -s 64M /tmp/disk.img
check 'iomgr add raw' add raw /tmp/disk.img
check 'iomgr list shows the device' says "$dev" iomgr list
check 'iomgr manager set throttle' says 'disk: iops 1' iomgr manager set throttle --iops 1 --device disk
check 'requests that wait are let go by iomgr manager unset' freed_by_unset
check 'iomgr manager show counts them' says 'manager: none' iomgr manager show
check 'a throttled rate is kept within five percent' rate_is_kept
check 'managers follow one another under a verified load' swapped_under_load
check 'and have lost no request' nothing_is_pending
check 'iomgr pause, a copy, and on' paused_under_load
check 'iomgr pause' says 'disk: paused' iomgr pause disk
check 'iomgr list shows that' says 'paused' iomgr list
check 'iomgr resume on another image' says 'resumed on /tmp/copy.img' iomgr resume disk --image /tmp/copy.img
check 'it is read from there' reads --number_ios=100
check 'iomgr stats' says 'READS/S' iomgr stats disk
check 'iomgr stats --watch' watched
check 'iomgr attach names the way out' refused 1 'iomgr add' iomgr attach /tmp/disk.img
check 'iomgr detach names the way out' refused 1 'iomgr del' iomgr detach disk
check 'iomgr del of a device whose image was replaced' del
finish
