# What the other scripts lean on: the module, io_uring under this kernel, and the product with a real client.
# needs: fio
# memory: 1024

. /lib/check.sh

engine_is_uring() {
    iomgr doctor | grep -E '^(ok|limited) +io_uring'
}

# Every block is written, and read back with its checksum.
serve_and_verify() {
    iomgr serve "$1" --engine uring --run 'fio --name=verify --ioengine=nbd --uri="$uri" --rw=randwrite \
        --bs=4k --iodepth=32 --size=32m --verify=crc32c --verify_fatal=1 --minimal'
}

is_a_vhd_of_32_mib() {
    iomgr info /tmp/disk.vhd --json | grep -E '"format": ?"vhd"' && iomgr info /tmp/disk.vhd --json | grep 33554432
}

check 'ublk_drv made its control device' test -c /dev/ublk-control
check 'io_uring can be had' engine_is_uring
check 'iomgr create makes a raw image' iomgr create /tmp/disk.raw --size 32M
check 'iomgr create makes a VHD' iomgr create /tmp/disk.vhd --size 32M
check 'fio verifies a raw image through iomgr serve' serve_and_verify /tmp/disk.raw
check 'fio verifies a VHD through iomgr serve' serve_and_verify /tmp/disk.vhd
check 'iomgr check finds nothing' iomgr check /tmp/disk.vhd
check 'iomgr info says what the image is' is_a_vhd_of_32_mib
check 'iomgr convert unpacks the VHD' iomgr convert /tmp/disk.vhd /tmp/copy.raw
check 'iomgr compare finds the copy equal' iomgr compare /tmp/disk.vhd /tmp/copy.raw
finish
