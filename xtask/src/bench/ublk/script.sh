# ublk devices of iomgr and of rublk, and the kernel's loop devices: 4 KiB requests by direct I/O.
# usage: ublk.sh ROUNDS COUNT 'PATTERN:DEPTH…' 'TARGET…' 'LIBC ADDRESS…'
# A TARGET is SERVER-STORAGE; the ADDRESSes are those of the C library's functions that allocate.
# prints `PATTERN DEPTH TARGET FIGURE TOTAL`, for COUNT requests each
rounds=$1 count=$2 loads=$3 targets=$4
set -- $5
export IOMGR_RUNTIME_DIR=/run/iomgr
tracing=/sys/kernel/tracing

# What was on /dev/loop0, again as a file and as a VHD, on a file system in memory; and the file as a loop device.
storage() {
    mkfs.ext4 -q /dev/ram0 && mount -t ext4 /dev/ram0 /mnt && cp /tmp/disk /mnt/disk.img || return 1
    iomgr convert /mnt/disk.img /mnt/disk.vhd && /bin/losetup --direct-io=on /dev/loop1 /mnt/disk.img && sync
}

# Adds a target; $dev is its path, $server the process that serves it.
add() {
    # What is in the page cache gets in the way of direct I/O, and of whoever comes first the more.
    echo 3 >/proc/sys/vm/drop_caches
    case $1 in
        *-null) image=null ;;
        *-file) image=/mnt/disk.img ;;
        *-vhd) image=/mnt/disk.vhd ;;
        *-loop) image=/dev/loop0 ;;
    esac
    dev=/dev/ublkb7 server=
    case $1 in
        kernel-file) dev=/dev/loop1 ;;
        kernel-loop) dev=/dev/loop0 ;;
        iomgr-*) iomgr add $image -n 7 --cache none && server=$(pidof iomgr) ;;
        rublk-null) rublk add null -n 7 && server=$(pidof rublk) ;;
        rublk-*) rublk add loop -n 7 -f $image && server=$(pidof rublk) ;;
    esac
}

del() {
    case $1 in
        iomgr-*) iomgr del -n 7 ;;
        rublk-*) rublk del -n 7 ;;
    esac
}

# The ninth field of fio's line is the milliseconds of all reads, the fiftieth those of all writes.
load() {
    case $1 in
        random-read) how='--rw=randread --norandommap' field=9 ;;
        random-write) how='--rw=randwrite --norandommap' field=50 ;;
        sequential-write) how=--rw=write field=50 ;;
    esac
    line=$(fio --name=load --filename=$dev --direct=1 --ioengine=io_uring $how --bs=4k \
        --io_size=$((count * 4))k --iodepth=$2 --gtod_reduce=1 --minimal) || exit
    instructions=$(($(echo "$line" | cut -d';' -f$field) * 1000000))
}

# Lets every tag's buffer be filled once: to find memory for it is the kernel's work, for other servers before they serve.
warm_up() { fio --name=warm-up --filename=$dev --direct=1 --ioengine=io_uring --rw=randwrite --bs=4k --io_size=16m --iodepth=128 --minimal >/dev/null; }

# Of all threads of the server, whether they gave the processor up or it was taken from them.
switches() { cat /proc/$server/task/*/status | awk '/ctxt_switches/ { sum += $2 } END { print sum }'; }

# Of all threads of the server, how many nanoseconds they have had the processor.
busy() { cat /proc/$server/task/*/schedstat | awk '{ sum += $1 } END { printf "%.0f\n", sum }'; }

# How often the server's threads came by the events of a kind, since they are counted.
calls() {
    threads=$(ls /proc/$server/task | tr '\n' ' ')
    cat $tracing/events/$1/hist | tr -d ':,{}' | awk -v threads=" $threads" '
        $1 == "common_pid" && index(threads, " " $2 " ") { sum += $4 } END { print sum + 0 }'
}

# Counts the events of a kind, by thread.
watch() { echo hist:keys=common_pid >$tracing/events/$1/trigger; }
unwatch() { echo '!hist:keys=common_pid' >$tracing/events/$1/trigger; }

# tell LOAD FIGURE TOTAL
tell() { echo "${1%:*} ${1#*:} $target $2 $3"; }

# figure LOAD NAME EVENTS…: how often the server did that under a load.
figure() {
    load=$1 name=$2 total=0
    shift 2
    for event; do watch $event || exit; done
    load ${load%:*} ${load#*:}
    for event; do total=$((total + $(calls $event))); done
    for event; do unwatch $event || exit; done
    tell $load $name $total
}

storage >/tmp/log 2>&1 || { cat /tmp/log >&2; exit 1; }
libc=$1
shift
allocators=
for address; do
    echo "p:allocators/at_$address $libc:$address" >>$tracing/uprobe_events || exit
    allocators="$allocators allocators/at_$address"
done

for round in $(seq $rounds); do
    for target in $targets; do
        add $target >&2 && warm_up || exit
        for load in $loads; do
            [ -z "$server" ] || switches=$(switches) busy=$(busy)
            load ${load%:*} ${load#*:}
            tell $load instructions $instructions
            [ -z "$server" ] || tell $load server $(($(busy) - busy))
            [ -z "$server" ] || tell $load switches $(($(switches) - switches))
        done
        if [ $round = $rounds ] && [ -n "$server" ]; then
            for load in $loads; do
                figure $load enters syscalls/sys_enter_io_uring_enter
                figure $load allocations $allocators
            done
        fi
        del $target >&2 || exit
    done
done
