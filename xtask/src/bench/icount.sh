# Random 4 KiB reads in a guest whose clock counts instructions, the same file for all: a loop device, by direct I/O.
# (On tmpfs itself tqueue makes plain calls, which would be no comparison of rings.)
# usage: icount.sh ROUNDS COUNT; prints `WHO DEPTH NANOSECONDS-PER-OP [ENTERS-PER-OP]`
rounds=$1 count=$2
size=64 # MiB
dd if=/dev/urandom of=/tmp/disk bs=1M count=$size 2>/dev/null
losetup /dev/loop0 /tmp/disk || exit

ours() {
    echo "tqueue $1 $(load /dev/loop0 random-read $1 $count direct)"
}

fio_with() {
    name=$1 depth=$2
    shift 2
    # The ninth field is the time in milliseconds.
    time=$(fio --name=load --filename=/dev/loop0 --direct=1 --ioengine=io_uring --rw=randread --bs=4k --size=${size}m \
        --io_size=$((count * 4))k --norandommap --iodepth=$depth --minimal "$@" | cut -d';' -f9)
    echo "$name $depth $((time * 1000000 / count)) ns"
}

for round in $(seq $rounds); do
    for depth in 1 32 128; do
        ours $depth
        fio_with fio $depth
        fio_with fio-lean $depth --gtod_reduce=1
        fio_with fio-tuned $depth --gtod_reduce=1 --fixedbufs --registerfiles \
            --iodepth_batch_submit=$depth --iodepth_batch_complete_max=$depth
    done
done
