# What newer kernels can do for devices that are in use: hand-over by QUIESCE, resize, safe stop, requests that fail fast.
# needs: fio
# modules: ublk_drv
# memory: 1024
# kernel: 7

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

id() { echo "${dev#/dev/ublkb}"; }
pid() { iomgr list -n "$(id)" --json | sed -n 's/.*"server_pid": *\([0-9]*\).*/\1/p'; }
has() { iomgr list -n "$(id)" --json | grep "$1"; }
sectors() { cat "/sys/block/${dev#/dev/}/size"; }

# Writes, and reads back what was written, while the command is run three times: no error.
under_load() {
    within fio --name=verify --filename="$dev" --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=4k-64k --iodepth=16 \
        --size=16M --verify=crc32c --verify_fatal=1 --verify_backlog=128 --time_based --runtime=30 --minimal >/tmp/fio.out 2>&1 &
    load=$!
    well=true
    for _ in 1 2 3; do
        goes_on && "$@" || well=false
    done
    goes_on && kill -0 $load || well=false
    killall -INT fio
    wait $load
    cat /tmp/fio.out
    dmesg | grep -i "error.*${dev#/dev/}" && well=false
    $well && ! grep -i 'error\|bad' /tmp/fio.out
}

goes_on() {
    since=$(tr -s ' ' <"/sys/block/${dev#/dev/}/stat" | cut -d' ' -f8)
    becomes sh -c "[ \$(tr -s ' ' </sys/block/${dev#/dev/}/stat | cut -d' ' -f8) -gt $((since + 64)) ]"
}

upgraded() {
    old=$(pid)
    [ "$(within iomgr upgrade "$(id)")" = "$dev" ] && [ "$(pid)" != "$old" ]
}

killed_and_recovered() {
    old=$(pid)
    kill -KILL "$old" && [ "$(within iomgr recover "$(id)")" = "$dev" ] && [ "$(pid)" != "$old" ]
}

grown() {
    truncate -s 64M /tmp/disk.img && within iomgr resize "$(id)" && [ "$(sectors)" = 131072 ] &&
        within dd if=/dev/zero of="$dev" bs=1M seek=48 count=1 oflag=direct
}

fails_fast() {
    kill -KILL "$(pid)" && becomes has failing && ! within dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct &&
        [ "$(within iomgr recover "$(id)")" = "$dev" ] && within dd if="$dev" of=/dev/null bs=4k count=1 iflag=direct
}

truncate -s 32M /tmp/disk.img
check 'added' add /tmp/disk.img -q 2
check 'the device can be quiesced' has QUIESCE
check 'handed over under fio, three times' under_load upgraded
check 'killed under fio, and recovered, three times' under_load killed_and_recovered
check 'grown while it is open' held grown
check 'not stopped while it is open' held refused 1 'open' iomgr del -n "$(id)"
check 'deleted' del
check 'fail: added' add /tmp/disk.img --recovery fail
check 'fail: requests fail until it is recovered' fails_fast
check 'fail: deleted' del
check 'nothing is left behind' [ -z "$(find /dev /run/iomgr -name 'ublkb*' -o -name 'ublkc*')" ]
finish
