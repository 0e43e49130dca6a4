# ublk devices whose servers are killed, recovered, handed over and deleted, under load.
# needs: fio mkfs.ext4 e2fsck
# modules: ublk_drv, loop, ext4
# memory: 1536

. /lib/check.sh
. /lib/ublk.sh

export IOMGR_RUNTIME_DIR=/run/iomgr
mkdir -p /mnt/u
case $1 in
soak) rounds=10 times=200 ;;
*) rounds=3 times=20 ;;
esac

id() { echo "${dev#/dev/ublkb}"; }

# The process that the kernel has for the device, which may be dead.
pid() { iomgr list -n "$(id)" --json | sed -n 's/.*"server_pid": *\([0-9]*\).*/\1/p'; }

# Sectors written so far.
written() { tr -s ' ' <"/sys/block/${dev#/dev/}/stat" | cut -d' ' -f8; }

# Waits until something more is written.
goes_on() {
    since=$(written)
    becomes sh -c "[ \$(tr -s ' ' </sys/block/${dev#/dev/}/stat | cut -d' ' -f8) -gt $((since + 64)) ]"
}

# The next server has the same node, and is another process.
recovers() {
    old=$1
    said=$(within iomgr recover "$(id)") && [ "$said" = "$dev" ] && [ "$(pid)" != "$old" ]
}

killed_and_recovered() {
    victim=$(pid)
    kill -KILL "$victim" && recovers "$victim"
}

upgraded() {
    old=$(pid)
    said=$(within iomgr upgrade "$(id)") && [ "$said" = "$dev" ] && [ "$(pid)" != "$old" ]
}

# Writes, and reads back what was written, all the time.
verify() {
    timeout $((20 * rounds)) fio --name=verify --filename="$dev" --ioengine=io_uring --direct=1 --rw=randwrite --bsrange=4k-64k --iodepth=16 \
        --size=48M --verify=crc32c --verify_fatal=1 --verify_backlog=128 --time_based --runtime=$((20 * rounds - 10)) --randseed=7 \
        --minimal "$@" >/tmp/fio.out 2>&1
}

# under_load COMMAND: again and again while fio verifies, which sees no error.
under_load() {
    verify --trigger-file=/tmp/trigger &
    load=$!
    round=0 well=true
    while $well && [ $round -lt $rounds ]; do
        round=$((round + 1))
        goes_on && "$@" || well=false
    done
    goes_on && kill -0 $load || well=false
    killall -INT fio
    wait $load
    status=$?
    cat /tmp/fio.out
    dmesg | grep -i "error.*${dev#/dev/}" && well=false
    # Interrupted, and nothing else.
    $well && ! grep -i 'error\|bad' /tmp/fio.out && { [ $status = 0 ] || [ $status = 128 ]; }
}

# Writes numbers to a file, each synced before the next; /tmp/synced has the last of them.
sync_numbers() {
    number=0
    while [ ! -e /tmp/enough ]; do
        number=$((number + 1))
        printf '%08d\n' $number | dd of=/mnt/u/numbers bs=9 seek=$((number - 1)) conv=notrunc,fsync 2>/tmp/dd.out || return 1
        echo $number >/tmp/synced
    done
}

# Numbers that were synced are all there.
has_numbers() {
    last=$(cat /tmp/synced)
    echo "$last numbers were synced"
    seq 1 "$last" | while read -r number; do printf '%08d\n' "$number"; done >/tmp/wanted
    head -n "$last" "$1/numbers" | cmp - /tmp/wanted
}

under_file_system() {
    within mount -t ext4 "$dev" /mnt/u || return 1
    echo 0 >/tmp/synced
    rm -f /tmp/enough
    sync_numbers &
    writer=$!
    round=0 well=true
    while $well && [ $round -lt $rounds ]; do
        round=$((round + 1))
        before=$(cat /tmp/synced)
        becomes sh -c "[ \$(cat /tmp/synced) -gt $((before + 3)) ]" && killed_and_recovered || well=false
    done
    touch /tmp/enough
    wait $writer && $well && has_numbers /mnt/u
}

# The same file system, by the kernel's own loop driver.
is_in_image() {
    loop=$(losetup -f)
    losetup "$loop" "$1" && mount -t ext4 -o ro "$loop" /mnt/u && has_numbers /mnt/u
    status=$?
    umount /mnt/u
    losetup -d "$loop"
    [ $status = 0 ]
}

nothing_left() {
    left=$(find /dev /run/iomgr -name 'ublkb*' -o -name 'ublkc*')
    echo "$left"
    [ -z "$left" ]
}

# recovered IMAGE OPTION…: killed under load, under a file system, and handed over.
recovered() {
    image=$1
    check "$image: added" add "/tmp/$@"
    check "$image: killed under fio, and recovered, $rounds times" under_load killed_and_recovered
    check "$image: handed over under fio, $rounds times" under_load upgraded
    check "$image: mkfs.ext4" within mkfs.ext4 -q -F "$dev"
    check "$image: killed under synced writes, and recovered, $rounds times" under_file_system
    check "$image: unmounted" within umount /mnt/u
    check "$image: fsck is content" within e2fsck -f -n "$dev"
    check "$image: deleted" del
}

deleted_after_kill() {
    add "$@" && kill -KILL "$(pid)" && del && nothing_left
}

# Requests wait, also for a server that never comes.
deleted_while_requests_wait() {
    direct --rw=randwrite --bs=4k --iodepth=8 --size=16M --time_based --runtime=40 2>/dev/null &
    load=$!
    goes_on && kill -KILL "$(pid)" && within iomgr del -n "$(id)" --force
    status=$?
    wait $load
    [ $status = 0 ] && nothing_left
}

added_and_deleted() {
    for _ in $(seq "$times"); do
        add null --size 16M && del || return 1
    done
}

# Of two that want the same number, one gets it.
one_wins() {
    for at in 1 2; do
        {
            within iomgr add null -n 9 --size 16M >/tmp/race.$at 2>&1
            echo $? >/tmp/race.$at.status
        } &
    done
    wait
    cat /tmp/race.*
    dev=/dev/ublkb9
    [ "$(cat /tmp/race.?.status | sort | tr '\n' ' ')" = '0 1 ' ] && grep 'already' /tmp/race.? && del
}

# One of two recoveries goes on, the other says that it is served.
one_recovers() {
    kill -KILL "$(pid)"
    for at in 1 2; do
        {
            within iomgr recover "$(id)" --timeout 5s >/tmp/race.$at 2>&1
            echo $? >/tmp/race.$at.status
        } &
    done
    wait
    cat /tmp/race.*
    [ "$(cat /tmp/race.?.status | sort | tr '\n' ' ')" = '0 1 ' ] && grep 'serves the device, and is well' /tmp/race.? && goes_on_by_hand
}

goes_on_by_hand() { within dd if=/dev/zero of="$dev" bs=4k count=16 oflag=direct; }

is_another() {
    now=$(pid)
    [ -n "$now" ] && [ "$now" != "$1" ]
}

# Nobody calls for the next server.
supervised_goes_on() {
    victim=$(pid)
    kill -KILL "$victim" && becomes is_another "$victim"
}

supervised_under_load() {
    wanted=$rounds rounds=3
    under_load supervised_goes_on
    status=$?
    rounds=$wanted
    return $status
}

supervisor() { sed -n 's/^PPid:[^0-9]*//p' "/proc/$(pid)/status"; }

ended_by_supervisor() { kill -TERM "$(supervisor)" && becomes gone "$dev" && becomes nothing_left; }

given_up() {
    above=$(supervisor)
    for _ in 1 2 3 4 5; do
        supervised_goes_on || return 1
    done
    kill -KILL "$(pid)" && becomes gone "/proc/$above" && grep 'given up; `iomgr recover' "/run/iomgr/${dev#/dev/}.log" &&
        within iomgr recover "$(id)" && goes_on_by_hand
}

not_served_twice() {
    kill -KILL "$(pid)"
    refused 1 'waits for its next server' iomgr add /tmp/fence.img && refused 1 "recover $(id)" iomgr serve /tmp/fence.img &&
        refused 1 'waits for its next server' iomgr serve /tmp/fence.img --frontend nbd && within iomgr recover "$(id)" && goes_on_by_hand
}

# Somebody else has the image, who cannot know of the device: the fence.
waits_for_the_image() {
    kill -KILL "$(pid)"
    IOMGR_RUNTIME_DIR=/tmp/elsewhere iomgr serve /tmp/fence.img --socket /tmp/fence.sock >/tmp/fence.out 2>&1 &
    holder=$!
    becomes [ -S /tmp/fence.sock ] && refused 1 "in use by process $holder (iomgr)" iomgr recover "$(id)" --timeout 2s
    status=$?
    kill -TERM $holder
    wait $holder
    [ $status = 0 ] && within iomgr recover "$(id)" && goes_on_by_hand
}

another_image() {
    kill -KILL "$(pid)"
    mv /tmp/fence.img /tmp/fence.away && truncate -s 16M /tmp/fence.img &&
        refused 1 'is not the image that the device was added with' iomgr recover "$(id)" --timeout 2s &&
        mv /tmp/fence.away /tmp/fence.img && within iomgr recover "$(id)" && goes_on_by_hand
}

waits() { iomgr manager show --json | grep -q '"class_until": [1-9]'; }

# Requests that a policy holds do not hold up the old server's end.
handed_over_waiting() {
    within iomgr manager set throttle --iops 1 || return 1
    direct --rw=randwrite --bs=4k --iodepth=8 --number_ios=200 --size=8M &
    load=$!
    becomes waits && upgraded && becomes waits
    status=$?
    within iomgr manager unset
    wait $load && [ $status = 0 ]
}

manager() { iomgr manager show | sed '/^requests/,$d'; }

# manager_stays COMMAND…: the device has the same one before and after.
manager_stays() {
    before=$(manager) && "$@" && after=$(manager)
    status=$?
    echo "$before; $after"
    [ $status = 0 ] && [ "$before" = "$after" ] && case $after in *throttle*) ;; *) false ;; esac
}

truncate -s 64M /tmp/raw.img
recovered raw.img
check 'raw.img: another driver finds what was synced' is_in_image /tmp/raw.img
check 'a dynamic VHD is made' within iomgr create --size 64M /tmp/dynamic.vhd
recovered dynamic.vhd -q 2

truncate -s 16M /tmp/fence.img
check 'fence: added' add /tmp/fence.img
check 'a device that is served is not recovered' refused 1 'serves the device, and is well' iomgr recover "$(id)"
check 'while it waits, its image is not served by another' not_served_twice
check 'one that holds the image is waited for, and named' waits_for_the_image
check 'another image in its place is refused' another_image
check 'a manager is set' within iomgr manager set throttle --iops 5000
check 'the manager is the same when recovered' manager_stays killed_and_recovered
check 'the manager is the same when handed over' manager_stays upgraded
check 'what waits for a manager is handed over as well' handed_over_waiting
check 'of two recoveries one goes on' one_recovers
check 'a size that has not changed' within iomgr resize "$(id)"
truncate -s 32M /tmp/fence.img
check 'this kernel cannot resize' refused 1 'Linux 6.16' iomgr resize "$(id)"
check 'fence: deleted' del
check 'supervised: added' add /tmp/fence.img --supervise
check 'supervised: killed under fio, and goes on by itself, 3 times' supervised_under_load
check 'supervised: a signal to the supervisor ends all' ended_by_supervisor
check 'supervised: added again' add /tmp/fence.img --supervise
check 'supervised: what dies again and again is given up, and waits' given_up
check 'supervised: deleted' del
check 'no device, nothing to recover' refused 1 'no ublk device 63' iomgr recover 63

# Nothing of what follows waits for storage.
watchdog=30
check 'deleted right after it was killed' deleted_after_kill /tmp/fence.img
check 'without recovery: deleted right after it was killed' deleted_after_kill /tmp/fence.img --recovery off
check 'waiting: added' add /tmp/fence.img
check 'deleted while requests wait for a server' deleted_while_requests_wait
check 'off: added' add null --size 16M --recovery off
check 'off: not handed over' refused 1 'added with --recovery off' iomgr upgrade "$(id)"
check 'off: deleted' del
check "added and deleted $times times" added_and_deleted
check 'of two servers one gets the number' one_wins
within iomgr create --size 64M /tmp/corrupt.vhd >/dev/null
dd if=/dev/urandom of=/tmp/corrupt.vhd bs=512 seek=1 count=2 conv=notrunc 2>/dev/null
check 'a corrupt VHD is refused' refused 1 'corrupt.vhd' iomgr add /tmp/corrupt.vhd
check 'nothing is left behind' nothing_left
finish
