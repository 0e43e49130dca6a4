# Zero copy, which takes a newer kernel: pages of requests go to raw files, loop devices and VHDs with holes, and come back,
# held to a model; what cannot do without the bytes is refused. All queues, depths and page cache with IOMGR_SOAK=1.
# needs: fio losetup blkdiscard
# helpers: shadow
# modules: ublk_drv, loop
# memory: 1024
# cpus: 4
# kernel: 7

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

is_zero_copy() {
    iomgr status --json | grep -F '"zero_copy": true' && iomgr list --ublk --json | grep -F AUTO_BUF_REG &&
        is_told dma_alignment=511
}

# Of pages that had something else in them. The file of zeros is what fills them.
reads_as_zeros() {
    yes junk | head -c $((32 << 20)) >/tmp/junk && rm /tmp/junk &&
        within cmp -n $((48 << 20)) "$dev" /dev/zero
}

# shadow NAME SEED buffered|direct QUEUES DEPTH COMMAND…: the device that `iomgr add COMMAND…` makes.
shadow() {
    what=$1 seed=$2 cache=$3 queues=$4 depth=$5
    shift 5
    check "$what: added" add "$@" -z -q "$queues" -d "$depth"
    check "$what: no copying" is_zero_copy
    [ "$seed" = 3 ] && check "$what: holes are zeros" reads_as_zeros
    check "$what: each sector holds what it must, $cache" within /bin/shadow "$dev" "$depth" 2000 "$seed" "$cache"
    check "$what: deleted" del
}

is_busy() { [ "$(figure in_flight)" -gt 0 ]; }

paused_under_load() {
    direct --rw=randrw --bs=64k --iodepth=8 --size=32M --loops=8 --verify=crc32c --verify_fatal=1 &
    load=$!
    for _ in 1 2 3; do
        becomes is_busy && within iomgr pause d -- cp /tmp/d.img /tmp/copy.img || return 1
    done
    kill -0 $load && wait $load
}

killed() { kill -KILL "$(server)" && within iomgr recover "${dev#/dev/ublkb}"; }
upgraded() { within iomgr upgrade "${dev#/dev/ublkb}"; }

next_server_under_load() {
    direct --rw=randrw --bs=64k --iodepth=8 --size=32M --loops=8 --verify=crc32c --verify_fatal=1 &
    load=$!
    for goes_over in killed upgraded killed; do
        becomes is_busy && $goes_over || return 1
    done
    kill -0 $load && wait $load
}

# made IMAGE: a fresh one. Most requests to a VHD go over several of its blocks.
made() {
    case $1 in
    *.vhd) iomgr create "$1" --size 48M --block-size 16K >/dev/null ;;
    *) truncate -s 48M "$1" ;;
    esac
}

all_combinations() {
    seed=100
    for image in /tmp/a.img /tmp/a.vhd; do
        for queues in 1 2 4; do
            for depth in 1 64 128; do
                for cache in buffered direct; do
                    made $image
                    seed=$((seed + 1))
                    shadow "$image $queues $depth" $seed $cache $queues $depth $image
                    rm $image
                done
            done
        done
    done
}

made /tmp/a.img
shadow 'raw file' 1 buffered 1 64 /tmp/a.img
rm /tmp/a.img

made /tmp/b.img
loop=$(/bin/losetup -f --show /tmp/b.img)
shadow 'loop device past the page cache' 2 direct 2 32 "$loop" --cache none
/bin/losetup -d "$loop"
rm /tmp/b.img

made /tmp/c.vhd
shadow 'dynamic VHD' 3 direct 2 64 /tmp/c.vhd
check 'dynamic VHD: the image is content' iomgr check /tmp/c.vhd
rm /tmp/c.vhd

[ "$1" != soak ] || all_combinations

truncate -s 32M /tmp/d.img
check 'large requests: added' add /tmp/d.img -z --filter fault:op=write,rate=10%,errno=EIO,seed=7 --retry-on EIO
check 'large requests: verified, with errors that pass' direct --rw=randrw --bsrange=512-512k --iodepth=16 --size=16M \
    --verify=crc32c --verify_fatal=1 --randseed=7
check 'pauses: what is held brings its pages with it' paused_under_load
check 'recovery: the next server has the pages of what was not done' next_server_under_load
check 'recovery: no copying' is_zero_copy
check 'large requests: deleted' del

check 'copied: added' add /tmp/d.img
check 'copied: memory is aligned as the driver likes' is_told dma_alignment=3
check 'copied: deleted' del
check 'checksums need the bytes' refused 2 'the filter checksum:size=4GiB needs the bytes' iomgr add /tmp/d.img -z --filter checksum
check 'nothing fills what null reads' refused 2 '--zero-copy: is for images' iomgr add null -z
finish
