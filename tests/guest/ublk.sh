# Real block devices: added, discarded, deleted, killed, and refused with a reason. What they hold is for ublk-images.sh.
# needs: fio blkdiscard
# modules: ublk_drv, loop
# memory: 1536

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr


# The thread that serves has the flag of those through which memory is written back (PF_MEMALLOC_NOIO).
is_io_flusher() {
    stat=$(cat /proc/"$(server)"/task/*/stat | grep '(ublk-')
    echo "$stat"
    set -- $stat
    [ $(($9 & 0x80000)) != 0 ]
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
not_let_go() {
    refused 1 "ublk device ${dev#/dev/ublkb} is deleted, but somebody still has" iomgr del -n "${dev#/dev/ublkb}" --force 7<"$dev"
}

# Who has it open is named, and so is a loop device over it.
is_kept() {
    held refused 1 "process $$ (sh)" iomgr del -n "${dev#/dev/ublkb}" || return 1
    loop=$(losetup -f) && losetup "$loop" "$dev" && refused 1 "$loop" iomgr del -n "${dev#/dev/ublkb}"
    status=$?
    losetup -d "$loop"
    [ $status = 0 ] && [ -b "$dev" ]
}

as_nobody() { within su nobody -s /bin/sh -c "IOMGR_RUNTIME_DIR=/tmp/nobody/run $*"; }

# What the rule does that docs/ublk.md has.
udev() {
    while sleep 0.1; do
        for node in /dev/ublkc[0-9]* /dev/ublkb[0-9]*; do
            [ -e "$node" ] && owner=$(iomgr list -n "${node#/dev/ublk?}" --owner 2>/dev/null) &&
                chown "${owner% *}:${owner#* }" "$node"
        done
    done
}

added_by_nobody() {
    dev=$(as_nobody iomgr add /tmp/nobody/disk.img -p) && [ -b "$dev" ]
}

written_by_nobody() {
    as_nobody dd if=/dev/urandom of="$dev" bs=64k count=16 conv=fsync && as_nobody cmp -n 1048576 "$dev" /tmp/nobody/disk.img
}

deleted_by_nobody() { as_nobody iomgr del -n "${dev#/dev/ublkb}" && gone "$dev"; }

nothing_left() {
    left=$(find /dev /run/iomgr -name 'ublkb*' -o -name 'ublkc*')
    echo "$left"
    [ -z "$left" ]
}

check 'iomgr features' within iomgr features
check 'null: iomgr add null' add null --size 1G
check 'null: memory may be written back through it' is_io_flusher
check 'null: what has no cache says so' is_told logical_block_size=512 'write_cache=write through' fua=0 max_hw_sectors_kb=512
check 'null: depth 1 enters the kernel once for a request' enters_at 1 110
check 'null: depth 32 enters it half as often at most' enters_at 32 50
tell_enters
check 'null: deleted' del

truncate -s 32M /tmp/trim.img
check 'trim: added' add /tmp/trim.img
check 'trim: parameters are told as they are' is_told logical_block_size=512 'write_cache=write back' fua=1 max_hw_sectors_kb=512
check 'trim: filled' noise
check 'trim: blkdiscard gives the space back' gives_space_back
check 'trim: filled again' noise
check 'trim: blkdiscard -z leaves zeros' reads_as_zeros
check 'a number that is taken is refused' refused 1 'already' iomgr add null -n "${dev#/dev/ublkb}"
check 'an image that is served is refused, and by whom' refused 1 '(iomgr)' iomgr add /tmp/trim.img
check 'SIGTERM leaves no device' ends_by_sigterm
check 'read-only: added' add /tmp/trim.img --read-only
check 'read-only: nothing is written' is_read_only
check 'read-only: deleted' del

check 'who cannot be told of a device has none' refused 1 'cannot write to stdout' sh -c 'iomgr add null --size 1M >/dev/full'
check 'nothing is left of it' nothing_left

check 'storage that comes back: added' add /tmp/trim.img --filter fault:op=write,rate=10%,errno=EIO,seed=7 --retry-on EIO
check 'storage that comes back: no error is seen' direct --rw=randwrite --bs=4k --iodepth=32 --size=16M
check 'storage that comes back: status tells of it' was_retried
check 'storage that comes back: deleted' del

check 'open: added from a terminal' add_from_terminal
check 'open: a device that somebody has open is kept' is_kept
check 'open: a device that is not let go of is said to be' not_let_go
check 'open: the log says so, too, without colours' grep 'ERROR control_ring_leaked' "/run/iomgr/${dev#/dev/}.log"
rm "/run/iomgr/${dev#/dev/}.log"
check 'open: then its number is free' becomes nothing_left

# There `del` finds no control socket, and leaves all to the driver, as other programs do.
del_from_elsewhere() { within env IOMGR_RUNTIME_DIR=/tmp/elsewhere iomgr del -n "${dev#/dev/ublkb}"; }
check 'by the driver alone: added' add /tmp/trim.img --control /tmp/elsewhere.ctl
check 'by the driver alone: written' noise
check 'by the driver alone: deleted' del_from_elsewhere
check 'by the driver alone: the server ends' becomes gone /tmp/elsewhere.ctl
check 'by the driver alone: it ends cleanly' becomes nothing_left

check 'killed: added' add null --size 64M --recovery off
check 'killed: what SIGKILL leaves is listed as dead' is_left_dead
check 'killed: it is deleted without its server' within iomgr del -a
check 'a chosen number' add null --size 64M -n 7
check 'deleted under load' deleted_under_load

check 'no such file' refused 1 'nothing.img' iomgr add /tmp/nothing.img
check 'no such device' refused 1 'no ublk device 63' iomgr del -n 63
check 'no size' refused 2 'multiple of 512' iomgr add null --size 0
check 'no power of two' refused 2 'power of two' iomgr add null -b 5000
check 'no zero copy on this kernel' refused 1 'lacks SUPPORT_ZERO_COPY | AUTO_BUF_REG, which Linux 6.16 brought' iomgr add /tmp/trim.img -z
check 'nothing is left behind' nothing_left
mkdir -p /etc && echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
echo 'other:x:65533:65533::/:/bin/sh' >>/etc/passwd
check 'no permission' refused 1 'iomgr serve IMAGE' su nobody -s /bin/sh -c \
    'IOMGR_RUNTIME_DIR=/tmp/nobody iomgr add null'
mkdir -p /tmp/nobody && cp /tmp/trim.img /tmp/nobody/disk.img && chown -R nobody /tmp/nobody && chmod 666 /dev/ublk-control
udev &
udev=$!
check 'unprivileged: root needs none of that' refused 1 'only for users without CAP_SYS_ADMIN' iomgr add null -p
check 'unprivileged: others are told of it' refused 1 '--unprivileged' su nobody -s /bin/sh -c 'IOMGR_RUNTIME_DIR=/tmp/nobody/run iomgr add null'
check 'unprivileged: added' added_by_nobody
check 'unprivileged: read and written by its owner' written_by_nobody
chmod 666 "$dev"
check 'unprivileged: no other user opens it' refused 1 'not permitted' su other -s /bin/sh -c "dd if=$dev of=/dev/null count=1"
check 'unprivileged: deleted by its owner' deleted_by_nobody
check 'unprivileged: added again' added_by_nobody
check 'unprivileged: deleted by root' within iomgr del -n "${dev#/dev/ublkb}" --force
kill $udev
check 'unprivileged: nothing is left behind' becomes nothing_left
check 'the driver goes when its devices have gone' within rmmod ublk_drv
check 'no driver' refused 1 'modprobe ublk_drv' iomgr add null
finish
