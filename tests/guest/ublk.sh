# Real block devices: added, verified, mounted, discarded, deleted, killed, and refused with a reason.
# needs: fio mkfs.ext4 e2fsck blkdiscard
# modules: ublk_drv, loop, ext4
# memory: 1536

. /lib/check.sh

export IOMGR_RUNTIME_DIR=/run/iomgr
mkdir -p /mnt/u

# Nothing here may take so long: what hangs is killed, and has failed.
within() { timeout 60 "$@"; }

# Adds a device; $dev is its path.
add() {
    dev=$(within iomgr add "$@") && [ -b "$dev" ]
}

del() {
    within iomgr del -n "${dev#/dev/ublkb}" && [ ! -e "$dev" ]
}

# refused CODE WORDS COMMAND…: fails with that code, and says these words.
refused() {
    code=$1 words=$2
    shift 2
    said=$(within "$@" 2>&1)
    status=$?
    echo "exit status $status: $said"
    case $said in *"$words"*) [ $status = "$code" ] ;; *) false ;; esac
}

# Waits until a condition holds, for ten seconds.
becomes() {
    tries=100
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

gone() { [ ! -e "$1" ]; }

# The pid of the only server, and a figure of its ublk frontend.
server() { iomgr status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
figure() { iomgr status --json | sed -n '/"ublk": {/,/}/s/.*"'"$1"'": *\([0-9]*\).*/\1/p'; }

direct() {
    within fio --name=direct --filename="$dev" --ioengine=io_uring --direct=1 --minimal "$@" >/dev/null
}

# enters_at DEPTH PERCENT: no more calls of io_uring_enter than that, of a hundred requests.
# The load comes in batches of half the depth: how it comes by itself is the emulated processors' affair.
enters_at() {
    enters=$(figure enters_total) requests=$(figure requests_total)
    direct --rw=randread --bs=4k --iodepth="$1" --iodepth_batch=$((($1 + 1) / 2)) \
        --iodepth_batch_complete_min=$((($1 + 1) / 2)) --number_ios=$((4000 + 500 * $1)) || return 1
    enters=$(($(figure enters_total) - enters)) requests=$(($(figure requests_total) - requests))
    echo "$enters/$requests at depth $1" >>/tmp/enters
    [ $requests -ge 4000 ] && [ $((100 * enters)) -le $(($2 * requests)) ]
}

# The thread that serves has the flag of those through which memory is written back (PF_MEMALLOC_NOIO).
is_io_flusher() {
    stat=$(cat /proc/"$(server)"/task/*/stat | grep '(ublk-')
    echo "$stat"
    set -- $stat
    [ $(($9 & 0x80000)) != 0 ]
}

sums() { (cd "$1" && find . -type f | sort | xargs md5sum); }

populate() {
    within mount -t ext4 "$dev" /mnt/u && within cp -r /bin /mnt/u/tree &&
        within fio --name=f --filename=/mnt/u/synced --rw=write --bs=4k --size=1M --fsync=16 --minimal >/dev/null &&
        sums /mnt/u >/tmp/before
}

# The same file system, by the kernel's own loop driver.
is_in_image() {
    loop=$(losetup -f)
    losetup "$loop" "$1" && mount -t ext4 -o ro "$loop" /mnt/u && sums /mnt/u >/tmp/after
    status=$?
    umount /mnt/u
    losetup -d "$loop"
    [ $status = 0 ] && [ -s /tmp/before ] && cmp /tmp/before /tmp/after
}

same_bytes() { [ "$device_sum" = "$(md5sum <"$1")" ]; }

# raw KIND IMAGE: all that a disk is for.
raw() {
    check "$1: iomgr add raw" add raw "$2"
    check "$1: fio verifies mixed sizes at depth 32" direct --rw=randrw --bsrange=512-256k --iodepth=32 --size=48M \
        --verify=crc32c --verify_fatal=1 --randseed=7
    check "$1: depth 1 enters the kernel twice for a request at most" enters_at 1 210
    check "$1: depth 32 enters it half as often at most" enters_at 32 50
    echo "# enters/requests: $(tr '\n' ' ' </tmp/enters)"
    rm /tmp/enters
    check "$1: mkfs.ext4" within mkfs.ext4 -q -F "$dev"
    check "$1: mounted, a tree copied, writes synced" populate
    check "$1: a mounted device is not deleted" refused 1 "error: $dev: is in use: mounted" iomgr del -n "${dev#/dev/ublkb}"
    check "$1: unmounted" within umount /mnt/u
    check "$1: fsck is content" within e2fsck -f -n "$dev"
    device_sum=$(md5sum <"$dev")
    check "$1: deleted" del
    check "$1: the image has the device's bytes" same_bytes "$2"
    check "$1: another driver finds the tree" is_in_image "$2"
}

gives_space_back() {
    full=$(du -k /tmp/trim.img | cut -f1)
    within /bin/blkdiscard "$dev" || return 1
    left=$(du -k /tmp/trim.img | cut -f1)
    echo "$full KiB, then $left KiB"
    [ "$full" -ge 32768 ] && [ "$left" -lt 1024 ]
}

reads_as_zeros() { within /bin/blkdiscard -z "$dev" && sync && within cmp -n $((32 << 20)) "$dev" /dev/zero; }

noise() { within dd if=/dev/urandom of="$dev" bs=1M count=32 conv=fsync; }

is_told() {
    queue=/sys/block/${dev#/dev/}/queue
    told="$(cat $queue/logical_block_size) $(cat $queue/write_cache) $(cat $queue/fua) $(cat $queue/max_hw_sectors_kb)"
    echo "$told"
    [ "$told" = "$1" ]
}

is_read_only() {
    [ "$(cat "/sys/block/${dev#/dev/}/ro")" = 1 ] && ! dd if=/dev/zero of="$dev" bs=4k count=1 conv=fsync
}

ends_by_sigterm() { kill -TERM "$(server)" && becomes gone "$dev" && becomes gone "/dev/ublkc${dev#/dev/ublkb}"; }

is_left_dead() { kill -KILL "$(server)" && becomes gone "$dev" && within iomgr list --ublk | grep dead; }

# Writes seen by the device, not counting the partition scan's reads.
is_written() { [ "$(tr -s ' ' <"/sys/block/${dev#/dev/}/stat" | cut -d' ' -f6)" != 0 ]; }

deleted_under_load() {
    direct --rw=randrw --bs=4k --iodepth=32 --size=64M --time_based --runtime=40 2>/dev/null &
    load=$!
    becomes is_written && within iomgr del -n "${dev#/dev/ublkb}" --force
    status=$?
    wait $load
    [ $status = 0 ] && gone "$dev"
}

was_retried() {
    status=$(iomgr status "${dev#/dev/}")
    echo "$status"
    case $status in *'filter fault:'*'retries: '[1-9]*) ;; *) false ;; esac
}

add_from_terminal() { add null --size 1M 2>/dev/ttyS1; }

# Held open until `del` has given up.
not_let_go() { refused 1 "ublk device ${dev#/dev/ublkb} is deleted, but somebody still has" iomgr del -n "${dev#/dev/ublkb}" 7<"$dev"; }

nothing_left() {
    left=$(find /dev /run/iomgr -name 'ublkb*' -o -name 'ublkc*')
    echo "$left"
    [ -z "$left" ]
}

check 'iomgr features' within iomgr features
check 'null: iomgr add null' add null --size 1G
check 'null: memory may be written back through it' is_io_flusher
check 'null: what has no cache says so' is_told '512 write through 0 512'
check 'null: depth 1 enters the kernel once for a request' enters_at 1 110
check 'null: depth 32 enters it half as often at most' enters_at 32 50
echo "# enters/requests: $(tr '\n' ' ' </tmp/enters)"
rm /tmp/enters
check 'null: deleted' del

truncate -s 192M /tmp/file.img
raw 'file' /tmp/file.img
loop0=$(losetup -f)
losetup "$loop0" /tmp/file.img
raw 'loop device' "$loop0"
losetup -d "$loop0"

truncate -s 32M /tmp/trim.img
check 'trim: added' add raw /tmp/trim.img
check 'trim: parameters are told as they are' is_told '512 write back 1 512'
check 'trim: filled' noise
check 'trim: blkdiscard gives the space back' gives_space_back
check 'trim: filled again' noise
check 'trim: blkdiscard -z leaves zeros' reads_as_zeros
check 'a number that is taken is refused' refused 1 'already' iomgr add null -n "${dev#/dev/ublkb}"
check 'an image that is served is refused, and by whom' refused 1 '(iomgr)' iomgr add raw /tmp/trim.img
check 'SIGTERM leaves no device' ends_by_sigterm
check 'read-only: added' add raw /tmp/trim.img --read-only
check 'read-only: nothing is written' is_read_only
check 'read-only: deleted' del

check 'who cannot be told of a device has none' refused 1 'cannot write to stdout' sh -c 'iomgr add null --size 1M >/dev/full'
check 'nothing is left of it' nothing_left

check 'storage that comes back: added' add raw /tmp/trim.img --filter fault:op=write,rate=10%,errno=EIO,seed=7 --retry-on EIO
check 'storage that comes back: no error is seen' direct --rw=randwrite --bs=4k --iodepth=32 --size=16M
check 'storage that comes back: status tells of it' was_retried
check 'storage that comes back: deleted' del

check 'open: added from a terminal' add_from_terminal
check 'open: a device that is not let go of is said to be' not_let_go
check 'open: the log says so, too, without colours' grep 'ERROR control_ring_leaked' "/run/iomgr/${dev#/dev/}.log"
rm "/run/iomgr/${dev#/dev/}.log"
check 'open: then its number is free' becomes nothing_left

# `del` does not find this control socket, and leaves all to the driver, as other programs do.
check 'by the driver alone: added' add raw /tmp/trim.img --control /tmp/elsewhere.ctl
check 'by the driver alone: written' noise
check 'by the driver alone: deleted' del
check 'by the driver alone: the server ends' becomes gone /tmp/elsewhere.ctl
check 'by the driver alone: it ends cleanly' becomes nothing_left

check 'killed: added' add null --size 64M
check 'killed: what SIGKILL leaves is listed as dead' is_left_dead
check 'killed: it is deleted without its server' within iomgr del -a
check 'a chosen number' add null --size 64M -n 7
check 'deleted under load' deleted_under_load

check 'no such file' refused 1 'nothing.img' iomgr add raw /tmp/nothing.img
check 'no such device' refused 1 'no ublk device 63' iomgr del -n 63
check 'no size' refused 2 'multiple of 512' iomgr add null --size 0
check 'no power of two' refused 2 'power of two' iomgr add null -b 5000
check 'nothing is left behind' nothing_left
mkdir -p /etc && echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
check 'no permission' refused 1 'iomgr serve IMAGE' su nobody -s /bin/sh -c \
    'IOMGR_RUNTIME_DIR=/tmp/nobody iomgr add null'
check 'the driver goes when its devices have gone' within rmmod ublk_drv
check 'no driver' refused 1 'modprobe ublk_drv' iomgr add null
finish
