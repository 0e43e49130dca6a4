# Block devices held to a model: reads, writes, FUA, zeros, discards and flushes at random, over queues, depths and page cache.
# Three combinations; all of them with IOMGR_SOAK=1.
# needs: blkdiscard
# helpers: shadow
# modules: ublk_drv
# memory: 1536
# cpus: 4

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

# shadow IMAGE QUEUES DEPTH buffered|direct SEED
shadow() {
    case $1 in
    *.vhd) iomgr create "$1" --size 64M >/dev/null ;;
    *) truncate -s 64M "$1" ;;
    esac
    check "$*: added" add "$1" -q "$2" -d "$3"
    check "$*: each sector holds what it must" within /bin/shadow "$dev" "$3" 6000 "$5" "$4"
    check "$*: deleted" del
    case $1 in *.vhd) check "$*: the image is content" iomgr check "$1" ;; esac
    rm "$1"
}

case $1 in
soak)
    seed=0
    for image in /tmp/a.img /tmp/a.vhd; do
        for queues in 1 2 4; do
            for depth in 1 64 128; do
                for cache in buffered direct; do
                    seed=$((seed + 1))
                    shadow $image $queues $depth $cache $seed
                done
            done
        done
    done
    ;;
*)
    shadow /tmp/a.img 1 1 buffered 1
    shadow /tmp/a.vhd 2 64 direct 2
    shadow /tmp/a.vhd 4 128 buffered 3
    ;;
esac
finish
