# What block devices of each kind of image hold, and what the kernel is told of them.
# needs: fio mkfs.ext4 e2fsck mkfs.xfs xfs_repair blkdiscard fallocate losetup dd cmp 7zz
# modules: ublk_drv, loop, ext4, xfs
# memory: 2560
# timeout: 1200

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr
mkdir -p /mnt/u

sums() { (cd "$1" && find . -type f | sort | xargs md5sum); }

populate() {
    within mount -t "$1" "$dev" /mnt/u && copy_tree /mnt/u/tree &&
        within fio --name=f --filename=/mnt/u/synced --rw=write --bs=4k --size=1M --fsync=16 --minimal >/dev/null &&
        sums /mnt/u >/tmp/before
}

content() {
    case $1 in
    ext4) within e2fsck -f -n "$dev" ;;
    xfs) within xfs_repair -n "$dev" ;;
    esac
}

# The device's bytes, in a file.
copied() { within /bin/dd if="$dev" of=/tmp/copy bs=1M conv=sparse && truncate -s "$(blockdev --getsize64 "$dev")" /tmp/copy; }

# The image has them, as another program reads it.
same_bytes() {
    case $1 in
    *dynamic.vhd) 7zz x -so -tVHD "$1" 2>/dev/null | /bin/cmp - /tmp/copy ;;
    *fixed.vhd) head -c -512 "$1" | /bin/cmp - /tmp/copy ;;
    *) /bin/cmp "$1" /tmp/copy ;;
    esac
}

# The same file system, by the kernel's own loop driver.
is_in_copy() {
    loop=$(/bin/losetup -f)
    /bin/losetup "$loop" /tmp/copy && mount -t "$1" -o ro "$loop" /mnt/u && sums /mnt/u >/tmp/after
    status=$?
    umount /mnt/u
    /bin/losetup -d "$loop"
    [ $status = 0 ] && [ -s /tmp/before ] && cmp /tmp/before /tmp/after
}

# tree KIND IMAGE FILESYSTEM COMMAND…: made by the command, filled, checked, and found again in the image.
tree() {
    kind=$1 image=$2 fs=$3
    shift 3
    check "$kind: $fs made" within "$@" "$dev"
    check "$kind: $fs mounted, a tree copied, writes synced" populate "$fs"
    check "$kind: a mounted device is not deleted" refused 1 "error: $dev: is in use: mounted" iomgr del -n "${dev#/dev/ublkb}"
    check "$kind: $fs unmounted" within umount /mnt/u
    check "$kind: $fs is content" content "$fs"
    check "$kind: the device's bytes copied" copied
    check "$kind: deleted" del
    check "$kind: another program finds these bytes in the image" same_bytes "$image"
    check "$kind: the kernel's own driver finds the tree in them" is_in_copy "$fs"
    rm /tmp/copy
}

# verified KIND IMAGE: what is written is read, with few calls into the kernel.
verified() {
    check "$1: added" add "$2"
    check "$1: fio verifies mixed sizes at depth 32" direct --rw=randrw --bsrange=512-256k --iodepth=32 --size=48M \
        --verify=crc32c --verify_fatal=1 --randseed=7
    check "$1: depth 1 enters the kernel twice for a request at most" enters_at 1 210
    check "$1: depth 32 enters it half as often at most" enters_at 32 50
    tell_enters
}

# disk KIND MAKE IMAGE: a disk for each file system, made by `MAKE IMAGE SIZE`.
disk() {
    $2 "$3" 96M
    verified "$1" "$image"
    tree "$1" "$image" ext4 mkfs.ext4 -q -F
    unmake
    $2 "$3" 300M
    check "$1: with two queues, added" add "$image" -q 2
    tree "$1" "$image" xfs mkfs.xfs -q -f
    unmake
}

make_file() { truncate -s "$2" "$1" && image=$1; }
make_loop() { make_file "$@" && image=$(/bin/losetup -f --show "$1"); }
make_fixed() { iomgr create "$1" --size "$2" --fixed >/dev/null && image=$1; }
make_dynamic() { iomgr create "$1" --size "$2" >/dev/null && image=$1; }

unmake() {
    case $image in
    /dev/*) /bin/losetup -d "$image" ;;
    *dynamic.vhd) check 'dynamic VHD: iomgr check finds nothing' iomgr check "$image" ;;
    esac
    rm /tmp/disk.*
}

# Partitions of 10 and 20 MiB: seen when the table is read again, and by the scan when the device is added anew.
is_partitioned() {
    {
        printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\120\0\0'
        printf '\0\0\0\0\203\0\0\0\0\130\0\0\0\240\0\0'
        head -c 32 /dev/zero
        printf '\125\252'
    } | dd of="$dev" bs=1 seek=446 conv=fsync 2>/dev/null
    blockdev --rereadpt "$dev" && [ -b "${dev}p2" ] && del && [ ! -e "${dev}p2" ] && add "$1" &&
        [ "$(cat "/sys/block/${dev#/dev/}/${dev#/dev/}p2/size")" = 40960 ]
}

mark() { yes "$1" | head -c 65536 | dd of="$dev" bs=64k seek="$2" conv=fsync 2>/dev/null; }
marked() { dd if="$dev" bs=64k skip="$2" count=1 2>/dev/null | cmp - /tmp/mark; }
zero() { dd if="$dev" bs=64k skip="$1" count=1 2>/dev/null | cmp -n 65536 - /dev/zero; }

# More than the largest single request: 5 GiB of zeros that need no space, and nothing beyond. In units of 64 KiB.
zeroes_five_gib() {
    yes mark | head -c 65536 >/tmp/mark
    gib=16384 marks="0 $((5 * 16384 - 1)) $((5 * 16384)) $((4 * 16384 - 1)) $((4 * 16384)) 20000"
    for at in $marks; do mark mark $at || return 1; done
    within /bin/fallocate -p -o 0 -l $((5 << 30)) "$dev" || return 1
    for at in $marks; do
        if [ "$at" = $((5 * gib)) ]; then marked mark $at || return 1; else zero $at || return 1; fi
    done
}

noise() { dd if=/dev/urandom of="$dev" bs=1M count=32 seek="$1" conv=fsync 2>/dev/null; }
used() { du -k "$image" | cut -f1; }

# What a discard gives back: a file's blocks to the file system, a VHD's to whoever writes next.
gives_space_back() {
    noise 0 && full=$(used) && within /bin/blkdiscard "$dev" && sync && zero 0 && zero 511 || return 1
    case $image in *.vhd) noise 1024 && full=$((full + 32768)) ;; esac
    echo "$full KiB, then $(used) KiB"
    [ $((full - $(used))) -ge 24000 ]
}

# The page cache knows nothing of what the device does.
reads_as_zeros() {
    noise 0 && within /bin/blkdiscard -z -l $((32 << 20)) "$dev" &&
        within /bin/cmp -n $((32 << 20)) "$dev" /dev/zero
}

# zeros KIND MAKE IMAGE: what has no data.
zeros() {
    $2 "$3" 6G
    check "$1: a large one added" add "$image" -q 2
    check "$1: blkdiscard gives the space back" gives_space_back
    check "$1: blkdiscard -z leaves zeros" reads_as_zeros
    check "$1: 5 GiB of zeros, and nothing beyond" zeroes_five_gib
    check "$1: partitions" is_partitioned "$image"
    check "$1: deleted" del
    unmake
}

disk 'file' make_file /tmp/disk.img
disk 'loop device' make_loop /tmp/disk.img
disk 'fixed VHD' make_fixed /tmp/disk.fixed.vhd
disk 'dynamic VHD' make_dynamic /tmp/disk.dynamic.vhd

zeros 'file' make_file /tmp/disk.img
zeros 'dynamic VHD' make_dynamic /tmp/disk.dynamic.vhd

truncate -s 32M /tmp/told.img
usual="logical_block_size=512 rotational=0 fua=1 max_hw_sectors_kb=512"
check 'told: a file, added' add /tmp/told.img
check 'told: a file' is_told $usual 'write_cache=write back' physical_block_size=4096 minimum_io_size=4096 \
    optimal_io_size=0 discard_granularity=4096 discard_max_bytes=4294963200 write_zeroes_max_bytes=4294963200 ro=0 size=65536
check 'told: a file, deleted' del
check 'told: read-only and smaller buffers, added' add /tmp/told.img --read-only -b 64K
check 'told: read-only and smaller buffers' is_told ro=1 max_hw_sectors_kb=64 discard_max_bytes=0 write_zeroes_max_bytes=0
check 'told: read-only and smaller buffers, deleted' del
loop0=$(/bin/losetup -f)
/bin/losetup -b 4096 "$loop0" /tmp/told.img
rotational=$(cat "/sys/block/${loop0#/dev/}/queue/rotational")
check 'told: a disk of 4096-byte sectors, added' add "$loop0"
check 'told: a disk of 4096-byte sectors' is_told logical_block_size=512 physical_block_size=4096 rotational="$rotational" \
    discard_granularity="$(cat "/sys/block/${loop0#/dev/}/queue/discard_granularity")" 'write_cache=write back' fua=1
check 'told: a disk of 4096-byte sectors, deleted' del
/bin/losetup -d "$loop0"
iomgr create /tmp/told.vhd --size 32M >/dev/null
check 'told: a VHD, added' add /tmp/told.vhd
check 'told: a VHD' is_told $usual 'write_cache=write back' physical_block_size=4096 optimal_io_size=2097152 \
    discard_granularity=2097152 discard_max_bytes=4292870144 write_zeroes_max_bytes=4292870144 ro=0 size=65536
check 'told: a VHD, deleted' del
finish
