# Runs scripts one after the other, each in a shell of its own, and looks at what it leaves behind.
#
#     all.sh [soak|''] [NAME SECONDS]…

. /lib/check.sh

form=$1
shift

# Devices, processes, mounts and complaints of the kernel's.
leaves_nothing() {
    left=$(
        ls -d /dev/ublk[bc]* 2>/dev/null
        pidof iomgr
        grep ' /mnt' /proc/mounts
        cat /sys/block/loop*/loop/backing_file 2>/dev/null
        dmesg -c | grep -E 'BUG:|WARNING:|Oops|general protection|blocked for more than'
    )
    echo "$left"
    [ -z "$left" ]
}

while [ $# -gt 0 ]; do
    echo "== $1"
    started=$(date +%s)
    timeout -s KILL "$2" sh "/tests/${1#guest::}.sh" $form
    echo "== exit $?"
    echo "# $1 took $(($(date +%s) - started)) s"
    check "$1 leaves nothing behind" leaves_nothing
    # What does is not the next one's problem.
    pidof iomgr | xargs -r kill -KILL
    rm -rf /tmp/* /run/iomgr
    shift 2
done
finish
