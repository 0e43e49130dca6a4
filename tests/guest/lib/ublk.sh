# For scripts about ublk devices, after check.sh: devices are added and deleted, looked at, and used.

# Nothing here may take so long: what hangs is killed, and has failed.
within() { timeout "${watchdog:-60}" "$@"; }

# says WORDS COMMAND…: succeeds, and says these words.
says() { exits 0 "$@"; }

# refused CODE WORDS COMMAND…: fails with that code, and says these words.
refused() { exits "$@"; }

exits() {
    code=$1 words=$2
    shift 2
    said=$(within "$@" 2>&1)
    status=$?
    echo "exit status $status: $said"
    case $said in *"$words"*) [ $status = "$code" ] ;; *) false ;; esac
}

# Adds a device; $dev is its path.
add() {
    dev=$(within iomgr add "$@") && [ -b "$dev" ]
}

del() {
    within iomgr del -n "${dev#/dev/ublkb}" && [ ! -e "$dev" ]
}

# held COMMAND…: while this shell has the device open, and nobody else.
held() {
    exec 7<"$dev"
    "$@" 7<&-
    status=$?
    exec 7<&-
    return $status
}

# Some megabytes of files, without those that would take emulated processors long: the product with what debuggers read.
copy_tree() { mkdir "$1" && find /bin /lib /tests -type f -size -4000k | xargs cp -t "$1"; }

# Waits until a condition holds, for the thirty seconds after which a hang is one.
becomes() {
    tries=300
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.1
    done
}

gone() { [ ! -e "$1" ]; }

# The pid of the only server, and a figure of its ublk frontend.
server() { iomgr status --json | sed -n 's/.*"pid": *\([0-9]*\).*/\1/p'; }
figure() { iomgr status --json | sed -n '/"ublk": {/,/}/s/.*"'"$1"'": *\([0-9]*\).*/\1/p'; }

direct() {
    within fio --name=direct --filename="$dev" --ioengine=io_uring --direct=1 --minimal "$@" >/dev/null
}

# enters_at DEPTH PERCENT: no more calls of io_uring_enter than that, of a hundred requests.
# The load comes in batches of half the depth: how it comes by itself is the emulated processors' affair.
enters_at() {
    enters=$(figure enters_total) requests=$(figure requests_total)
    direct --rw=randread --bs=4k --iodepth="$1" --iodepth_batch=$((($1 + 1) / 2)) \
        --iodepth_batch_complete_min=$((($1 + 1) / 2)) --number_ios=$((4000 + 500 * $1)) || return 1
    enters=$(($(figure enters_total) - enters)) requests=$(($(figure requests_total) - requests))
    echo "$enters/$requests at depth $1" >>/tmp/enters
    [ $requests -ge 4000 ] && [ $((100 * enters)) -le $(($2 * requests)) ]
}

tell_enters() {
    echo "# enters/requests: $(tr '\n' ' ' </tmp/enters)"
    rm /tmp/enters
}

# is_told LIMIT=VALUE…: what the kernel has of the device, in its words.
is_told() {
    disk=/sys/block/${dev#/dev/} told=true
    for wanted; do
        limit=$(cat "$disk/queue/${wanted%%=*}" 2>/dev/null || cat "$disk/${wanted%%=*}")
        echo "${wanted%%=*}: $limit"
        [ "$limit" = "${wanted#*=}" ] || told=false
    done
    $told
}
