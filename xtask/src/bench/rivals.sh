# tqueue and fio's io_uring engine in turns, the same ops of 4 KiB on one device, by direct I/O.
# usage: rivals.sh DEVICE ROUNDS COUNT PATTERN:DEPTH…; prints `PATTERN DEPTH WHO NANOSECONDS-PER-OP …`
device=$1 rounds=$2 count=$3
shift 3

# The ninth field of fio's line is the milliseconds of all reads, the fiftieth those of all writes.
fio_with() {
    case $pattern in
        random-read) how='--rw=randread --norandommap' field=9 ;;
        sequential-write) how=--rw=write field=50 ;;
    esac
    line=$(fio --name=load --filename=$device --direct=1 --ioengine=io_uring $how --bs=4k \
        --io_size=$((count * 4))k --iodepth=$depth --minimal "$@") || exit
    echo $(($(echo "$line" | cut -d';' -f$field) * 1000000 / count))
}

for round in $(seq $rounds); do
    for load in "$@"; do
        pattern=${load%:*} depth=${load#*:}
        ours=$(load $device $pattern $depth $count direct) || exit
        echo "$pattern $depth tqueue $ours"
        echo "$pattern $depth fio $(fio_with)"
        echo "$pattern $depth fio-lean $(fio_with --gtod_reduce=1)"
        echo "$pattern $depth fio-tuned $(fio_with --gtod_reduce=1 --fixedbufs --registerfiles \
            --iodepth_batch_submit=$depth --iodepth_batch_complete_max=$depth)"
    done
done
