# `iomgr serve` where the kernel has ublk: a block device, unless somebody asks for what NBD alone can do.
# modules: ublk_drv

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

# serving WORDS…: serves a new VHD with these words; what it says is in /tmp/said.
serving() {
    rm -f /tmp/disk.vhd
    iomgr serve /tmp/disk.vhd --create 64M "$@" >/tmp/said 2>&1 &
    becomes grep -q '^to end it' /tmp/said || { cat /tmp/said && false; }
}

served() { sed -n "s/^$1: //p" /tmp/said; }

is_a_block_device() {
    serving --queues 2 --pidfile /tmp/pid || return 1
    dev=$(served device)
    cat /tmp/said
    [ "$(served frontend)" = ublk ] && [ -b "$dev" ] && [ -f /tmp/pid ] && dd if=/bin/busybox of="$dev" bs=4k conv=fsync &&
        cmp -n "$(stat -c %s /bin/busybox)" /bin/busybox "$dev"
}

ends_by() {
    "$@" && becomes gone "$dev" && becomes gone /tmp/pid && within wait && within iomgr check /tmp/disk.vhd
}

is_nbd_because() {
    why=$1
    shift
    serving "$@" || return 1
    cat /tmp/said
    case $(served frontend) in 'NBD on '*) ;; *) return 1 ;; esac
    [ "$(served 'why not ublk')" = "$why" ] && within iomgr stop disk
}

by_signal() { kill -TERM "$(cat /tmp/pid)"; }

check 'it makes a block device' is_a_block_device
check 'SIGTERM ends it' ends_by by_signal
check 'another one' is_a_block_device
check 'iomgr stop ends it' ends_by within iomgr stop "ublkb${dev#/dev/ublkb}"
# Killed, its device goes on with another server.
goes_on() {
    rm -f /tmp/disk.vhd
    iomgr serve /tmp/disk.vhd --create 64M --supervise >/tmp/said 2>/tmp/log &
    supervisor=$!
    becomes grep -q ublkb /tmp/said || { cat /tmp/log && false; }
    dev=$(cat /tmp/said) first=$(server)
    dd if=/bin/busybox of="$dev" bs=4k conv=fsync && kill -KILL "$first" && becomes another_than "$first" &&
        dd if="$dev" bs=64k count=1 iflag=direct | cmp -n 65536 - /bin/busybox && kill -TERM $supervisor && wait $supervisor &&
        gone "$dev"
}
another_than() { [ -n "$(server)" ] && [ "$(server)" != "$1" ]; }

check '--supervise: a device survives its server' goes_on
check '--frontend nbd' is_nbd_because '' --frontend nbd
check '--listen is for NBD' is_nbd_because '--listen is for NBD alone' --listen localhost:0
check 'both cannot be' refused 2 '--frontend ublk: --listen is for NBD alone' iomgr serve /tmp/disk.vhd --frontend ublk --listen localhost:0
chmod 0 /dev/ublk-control
rmmod ublk_drv 2>/dev/null
check 'without the driver' is_nbd_because 'no /dev/ublk-control: the kernel has no ublk driver, or it is not loaded (`modprobe ublk_drv`)'
finish
