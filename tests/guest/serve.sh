# `iomgr serve` where the kernel has ublk: a block device, unless somebody asks for what NBD alone can do.
# modules: ublk_drv

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr

# serving WORDS…: serves a new VHD with these words; what it says is in /tmp/said.
serving() {
    rm -f /tmp/disk.vhd /tmp/said
    iomgr serve /tmp/disk.vhd --create 64M "$@" >/tmp/said 2>&1 &
    process=$!
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
    "$@" && becomes gone "$dev" && becomes gone /tmp/pid && wait $process && within iomgr check /tmp/disk.vhd
}

is_nbd_because() {
    why=$1
    shift
    serving "$@" || return 1
    cat /tmp/said
    case $(served frontend) in 'NBD on '*) ;; *) return 1 ;; esac
    [ "$(served 'why not ublk')" = "$why" ] && within iomgr stop disk
}

is_nbd_for_nobody() {
    mkdir -p /etc && grep -qs nobody /etc/passwd || echo 'nobody:x:65534:65534::/:/bin/sh' >>/etc/passwd
    mkdir -p /tmp/nobody && chown nobody /tmp/nobody && chmod 666 /dev/ublk-control
    # The one before must not be heard once more.
    rm -f /tmp/said
    su nobody -s /bin/sh -c 'IOMGR_RUNTIME_DIR=/tmp/nobody/run iomgr serve /tmp/nobody/disk.vhd --create 1M' >/tmp/said 2>&1 &
    becomes grep -q '^to end it' /tmp/said
    chmod 600 /dev/ublk-control
    cat /tmp/said
    [ "$(served 'why not ublk')" = 'this user may not add ublk devices' ] &&
        IOMGR_RUNTIME_DIR=/tmp/nobody/run within iomgr stop disk
}

by_signal() { kill -TERM "$(cat /tmp/pid)"; }

check 'it makes a block device' is_a_block_device
check 'SIGTERM ends it' ends_by by_signal
check 'another one' is_a_block_device
check 'iomgr stop ends it' ends_by within iomgr stop "ublkb${dev#/dev/ublkb}"
killed_and_supervised() {
    serving --supervise || return 1
    dev=$(served device) victim=$(server)
    kill -KILL "$victim" && becomes is_another "$victim" && dd if=/bin/busybox of="$dev" bs=4k conv=fsync
}

is_another() { [ -n "$(server)" ] && [ "$(server)" != "$1" ]; }

check '--supervise: the device goes on when its server is killed' killed_and_supervised
check '--supervise: iomgr stop ends all' ends_by within iomgr stop "ublkb${dev#/dev/ublkb}"
check '--frontend nbd' is_nbd_because '' --frontend nbd
check '--listen is for NBD' is_nbd_because '--listen is for NBD alone' --listen localhost:0
check 'both cannot be' refused 2 '--frontend ublk: --listen is for NBD alone' iomgr serve /tmp/disk.vhd --frontend ublk --listen localhost:0
check 'more than a block device can have' is_nbd_because '8 times 1024 buffers of 524288 bytes are more than 2 GiB; choose fewer queues, a smaller depth or buffer' \
    --queues 8 --depth 1024
check 'by a user without privilege, whom udev lets talk to the driver' is_nbd_for_nobody
mv /dev/ublk-control /dev/hidden
check 'without the driver' is_nbd_because 'no /dev/ublk-control: the kernel has no ublk driver, or it is not loaded (`modprobe ublk_drv`)'
mv /dev/hidden /dev/ublk-control
finish
