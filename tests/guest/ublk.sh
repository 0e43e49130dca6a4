# ublk devices, on a kernel that has them: added, used, mounted, deleted, and refused with a reason.
#
# needs: fio mkfs.ext4 e2fsck blkdiscard
# modules: ublk_drv loop ext4
# memory: 1536
#
# Prints `ok NAME` or `not ok NAME: why`; exits 1 if anything was not ok.

export IOMGR_RUNTIME_DIR=/run/iomgr
W=/tmp/w; mkdir -p $W /mnt/u; cd $W || exit 1
failed=0

# Nothing here may take so long; what hangs is killed and has failed.
t() { timeout 60 "$@"; }
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1: $2"; failed=1; }
# check NAME COMMAND...: well if the command ends well
check() { name=$1; shift; if out=$(t "$@" 2>&1); then ok "$name"; else not_ok "$name" "rc $?: $out"; fi; }
# refuse NAME CODE WORDS COMMAND...: well if the command ends with that code and says these words
refuse() {
  name=$1; code=$2; words=$3; shift 3
  out=$(t "$@" 2>&1); rc=$?
  case "$rc $out" in "$code "*"$words"*) ok "$name";; *) not_ok "$name" "rc $rc: $out";; esac
}
add() { dev=$(t iomgr add "$@") || { not_ok "add $1" "rc $?"; return 1; }; [ -b "$dev" ] || { not_ok "add $1" "no $dev"; return 1; }; }
# A figure of the only server's ublk frontend.
figure() { t iomgr status --json | sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" | head -1; }
del() { check "$1" iomgr del -n "${dev#/dev/ublkb}"; [ -e "$dev" ] && not_ok "$1" "$dev is still there"; }

# --- what the driver can do
check features iomgr features
t iomgr features | grep -q '^yes *CMD_IOCTL_ENCODE' && ok features_there || not_ok features_there "no CMD_IOCTL_ENCODE"

# --- null: enters per request
if add null --size 1G; then
  ok add_null
  for depth in 1 32; do
    e=$(figure enters_total); r=$(figure requests_total)
    check "null_fio_$depth" fio --name=n --filename=$dev --rw=randread --bs=4k --iodepth=$depth --ioengine=io_uring \
      --direct=1 --size=1G --number_ios=$((depth * 500 + 4500))
    e=$(($(figure enters_total) - e)); r=$(($(figure requests_total) - r))
    [ $depth = 1 ] && most=110 || most=50
    echo "# null, depth $depth: $e enters for $r requests"
    [ $r -gt 1000 ] && [ $((e * 100)) -le $((r * most)) ] && ok "null_enters_$depth" || not_ok "null_enters_$depth" "$e for $r"
  done
  del del_null
fi

# --- raw, in a file on tmpfs and on a loop device: bytes, a file system, discards
raw() {
  kind=$1; image=$2
  add raw "$image" || return
  ok "add_$kind"
  check "${kind}_verify" fio --name=v --filename=$dev --rw=randrw --bsrange=512-256k --iodepth=32 --ioengine=io_uring \
    --direct=1 --size=64M --io_size=64M --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7
  check "${kind}_mkfs" mkfs.ext4 -q -F $dev
  if t mount -t ext4 $dev /mnt/u; then
    refuse "${kind}_mounted" 1 "unmount it first" iomgr del -n "${dev#/dev/ublkb}"
    check "${kind}_copy" cp -r /bin /mnt/u/tree
    check "${kind}_fsync" fio --name=f --filename=/mnt/u/synced --rw=write --bs=4k --size=1M --fsync=16 --end_fsync=1
    (cd /mnt/u && find . -type f | sort | xargs md5sum) >$W/before
    check "${kind}_umount" umount /mnt/u
    check "${kind}_fsck" e2fsck -f -n $dev
  else
    not_ok "${kind}_mount" "rc $?"
  fi
  device_sum=$(md5sum <$dev)
  del "del_$kind"
  [ "$device_sum" = "$(md5sum <"$image")" ] && ok "${kind}_bytes_equal" || not_ok "${kind}_bytes_equal" "the image differs"
  # By another driver: the file system is the image's.
  loop=$(losetup -f); t losetup $loop "$image" && t mount -t ext4 -o ro $loop /mnt/u
  (cd /mnt/u && find . -type f | sort | xargs md5sum) >$W/after
  umount /mnt/u; losetup -d $loop
  [ -s $W/before ] && cmp -s $W/before $W/after && ok "${kind}_tree_equal" || not_ok "${kind}_tree_equal" "the tree differs"
}
truncate -s 256M $W/file.img; raw file $W/file.img
truncate -s 256M $W/loop.img; loop0=$(losetup -f); losetup $loop0 $W/loop.img; raw loop $loop0; losetup -d $loop0

# --- discards and zeros give space back, and read as zeros
truncate -s 64M $W/trim.img
if add raw $W/trim.img; then
  t dd if=/dev/urandom of=$dev bs=1M count=64 conv=fsync 2>/dev/null
  full=$(du -k $W/trim.img | cut -f1)
  check trim_discard blkdiscard $dev
  left=$(du -k $W/trim.img | cut -f1)
  [ "$full" -ge 65536 ] && [ "$left" -lt 1024 ] && ok trim_space || not_ok trim_space "$full KiB before, $left KiB after"
  t dd if=/dev/urandom of=$dev bs=1M count=8 conv=fsync 2>/dev/null
  check trim_zero blkdiscard -z $dev
  sync; cmp -n $((64 << 20)) -s $dev /dev/zero && ok trim_zeros || not_ok trim_zeros "not all zeros"
  del del_trim
fi

# --- read-only
if add raw $W/trim.img --read-only; then
  [ "$(cat /sys/block/${dev#/dev/}/ro)" = 1 ] && ok read_only || not_ok read_only "the kernel was not told"
  t dd if=/dev/zero of=$dev bs=4k count=1 2>/dev/null && not_ok read_only_write "written" || ok read_only_write
  del del_read_only
fi

# --- what is told of the device
if add raw $W/trim.img; then
  q=/sys/block/${dev#/dev/}/queue
  told="$(cat $q/logical_block_size) $(cat $q/write_cache) $(cat $q/fua) $(cat $q/max_hw_sectors_kb)"
  [ "$told" = "512 write back 1 512" ] && ok parameters || not_ok parameters "$told"
  refuse id_taken 1 "already" iomgr add raw $W/file.img -n "${dev#/dev/ublkb}"
  refuse image_taken 1 "" iomgr add raw $W/trim.img
  server=$(figure pid)
  kill -TERM "$server"; n=0
  while [ -d /proc/$server ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  [ ! -e "$dev" ] && [ ! -e /dev/ublkc${dev#/dev/ublkb} ] && ok sigterm || not_ok sigterm "$(ls /dev/ublk*)"
fi

# --- killed: what is left can be listed and deleted
if add null --size 64M; then
  kill -KILL "$(figure pid)"; n=0
  while [ -e $dev ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
  t iomgr list | grep -q dead && ok killed_is_dead || not_ok killed_is_dead "$(t iomgr list)"
  check killed_del iomgr del -a
  [ ! -e /dev/ublkc${dev#/dev/ublkb} ] && ok killed_gone || not_ok killed_gone "$(ls /dev/ublk*)"
fi

# --- two at once, and stopped under load
if add null --size 64M; then
  first=$dev
  if add null --size 64M -n 7; then
    [ "$dev" = /dev/ublkb7 ] && ok id_chosen || not_ok id_chosen "$dev"
    t fio --name=l --filename=$dev --rw=randrw --bs=4k --iodepth=32 --ioengine=io_uring --direct=1 --time_based \
      --runtime=30 --size=64M >/dev/null 2>&1 & load=$!
    while [ "$(cut -d' ' -f1 /sys/block/ublkb7/stat | tr -d ' ')" = 0 ]; do sleep 0.1; done
    check del_under_load iomgr del -n 7 --force
    wait $load; [ ! -e /dev/ublkb7 ] && ok gone_under_load || not_ok gone_under_load "still there"
  fi
  dev=$first; del del_first
fi

# --- refused
refuse no_file 1 "nothing.img" iomgr add raw $W/nothing.img
refuse no_device 1 "no ublk device 63" iomgr del -n 63
refuse no_size 1 "sectors" iomgr add null --size 0
: >$W/empty.img
refuse empty_file 1 "sectors" iomgr add raw $W/empty.img
refuse bad_buffer 1 "power of two" iomgr add null -b 5000
[ -z "$(ls /dev/ublkb* /dev/ublkc* /run/iomgr/* 2>/dev/null)" ] && ok nothing_left || not_ok nothing_left "$(ls /dev/ublk* /run/iomgr)"
# Somebody without privilege, and no driver at all.
cp /bin/iomgr $W/iomgr; chmod 755 $W $W/iomgr
grep -q '^nobody:' /etc/passwd 2>/dev/null || echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
refuse no_permission 1 "iomgr serve IMAGE" su nobody -s /bin/sh -c "IOMGR_RUNTIME_DIR=/tmp/n $W/iomgr add null"
check unload rmmod ublk_drv
refuse no_driver 1 "modprobe ublk_drv" iomgr add null
exit $failed
