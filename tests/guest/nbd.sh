# The kernel's own NBD client on our server: file systems, and a server that is started anew under a mounted one.
# needs: mkfs.ext4 e2fsck mkfs.xfs xfs_repair nbd-client fio
# helpers: nbd-link
# modules: nbd, ext4, xfs
# memory: 1536

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr
dev=/dev/nbd0
mkdir -p /mnt/u

# serve WORDS…: by the socket /tmp/nbd, until it is stopped.
serve() {
    rm -f /tmp/said
    iomgr serve "$@" --socket /tmp/nbd >/tmp/said 2>/tmp/log &
    process=$!
    becomes grep -q '^to end it' /tmp/said || { cat /tmp/log && false; }
}

stop() { within iomgr stop disk && wait $process; }

has_size() { [ "$(blockdev --getsize64 $dev)" = "$1" ]; }
connected() { within nbd-client -unix /tmp/nbd $dev && becomes has_size "$1"; }
disconnected() { within nbd-client -d $dev && becomes has_size 0; }

# What the kernel has been told of the disk.
is_told() {
    queue=/sys/block/nbd0/queue
    cat $queue/write_cache $queue/fua $queue/discard_max_bytes
    [ "$(cat $queue/write_cache)" = 'write back' ] && [ "$(cat $queue/fua)" = 1 ] && [ "$(cat $queue/discard_max_bytes)" != 0 ]
}

sums() { (cd /mnt/u && find . -type f -name '[a-z]*' | sort | xargs md5sum); }

populated() {
    within mount -t "$1" $dev /mnt/u && copy_tree /mnt/u/tree &&
        within fio --name=f --filename=/mnt/u/synced --rw=write --bs=4k --size=1M --fsync=16 --minimal >/dev/null &&
        sums >/tmp/before && within umount /mnt/u
}

content() {
    case $1 in
    ext4) within e2fsck -f -n $dev ;;
    xfs) within xfs_repair -n $dev ;;
    esac
}

found_again() {
    within mount -t "$1" -o ro $dev /mnt/u && sums >/tmp/after
    within umount /mnt/u && cmp /tmp/before /tmp/after
}

# filesystem TYPE SIZE BYTES COMMAND…: made by the command, filled, checked, and found again after another start of the server.
filesystem() {
    fs=$1 size=$2 bytes=$3
    shift 3
    rm -f /tmp/disk.vhd
    check "$fs: served" serve /tmp/disk.vhd --create "$size"
    check "$fs: the kernel's client connects" connected "$bytes"
    check "$fs: it is told of the disk" is_told
    check "$fs: made" within "$@" $dev
    check "$fs: a tree copied, writes synced" populated "$fs"
    check "$fs: content" content "$fs"
    check "$fs: the client disconnects" disconnected
    check "$fs: the server is stopped" stop
    check "$fs: the image is content" iomgr check /tmp/disk.vhd
    check "$fs: served again" serve /tmp/disk.vhd
    check "$fs: the kernel's client connects again" connected "$bytes"
    check "$fs: the tree is found" found_again "$fs"
    check "$fs: the client disconnects again" disconnected
    check "$fs: the server is stopped again" stop
}

# A load with syncs on a mounted file system goes on: its requests wait for the next connection.
outlives() {
    within mount $dev /mnt/u || return 1
    within fio --name=load --directory=/mnt/u --rw=randrw --bs=4k --size=8M --fsync=8 --verify=crc32c --verify_fatal=1 \
        --minimal >/tmp/fio.out 2>&1 &
    load=$!
    becomes written || return 1
    "$@" && serve /tmp/disk.vhd && within nbd-link reconnect 0 /tmp/nbd && wait $load || { cat /tmp/fio.out && return 1; }
    within cp /bin/busybox /mnt/u/copy && within cmp /bin/busybox /mnt/u/copy && within umount /mnt/u
}

written() { [ "$(awk "{ print \$5 }" /sys/block/nbd0/stat)" -gt 100 ]; }

killed() { kill -KILL "$(server)" && becomes no_server; }
no_server() { [ -z "$(server)" ]; }

# Once stopped, and once killed.
reconnected() {
    rm -f /tmp/disk.vhd
    check 'reconnect: served' serve /tmp/disk.vhd --create 64M
    check 'reconnect: connected' within nbd-link connect 0 /tmp/nbd
    check 'reconnect: a file system' within mkfs.ext4 -q -F $dev
    check 'reconnect: the server is stopped under load, and started again' outlives stop
    check 'reconnect: the server is killed under load, and started again' outlives killed
    check 'reconnect: the file system is content' content ext4
    check 'reconnect: disconnected' within nbd-link disconnect 0
    check 'reconnect: the server is stopped' stop
    check 'reconnect: the image is content' iomgr check /tmp/disk.vhd
}

filesystem ext4 96M 100663296 mkfs.ext4 -q -F
filesystem xfs 300M 314572800 mkfs.xfs -q -f
reconnected
finish
