#!/bin/busybox sh
# The guest's first process: mounts, modules, the command, its exit status, the end.
# Console messages go to the first serial port; the command's output, between two marks, to the second.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
for folder in /tmp /dev/shm /run; do mount -t tmpfs tmpfs $folder; done
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null
ip link set lo up
ulimit -l unlimited
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
fail() {
    printf '\036failed %s\n' "$1" >&3
    reboot -f
}
[ -e /complete ] || fail 'has too little memory for its root file system'
. /modules.sh || fail 'could not load its modules'
printf '\036up %s\n' "$(cut -d' ' -f1 /proc/uptime)" >&3
(cd /root && . /command.sh) >&3 2>&1 3>&- </dev/null
status=$?
for disk in /sys/block/vd*; do
    [ "$(cat $disk/serial 2>/dev/null)" = out ] && tar -cf /dev/${disk##*/} -C /out .
done
sync
printf '\036exit %s\n' $status >&3
stty -F /dev/ttyS1 >/dev/null # returns when all of it is sent
reboot -f
