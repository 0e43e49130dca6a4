# For the scripts beside this folder: each check is one test, and prints one line.

# check NAME COMMAND…: passes when the command does; what the command prints is shown when it does not.
check() {
    name=$1
    shift
    if "$@" >/tmp/check.out 2>&1; then
        echo "ok $name"
    else
        status=$?
        echo "not ok $name"
        echo "  exit status $status: $*"
        sed 's/^/  /' /tmp/check.out
        failed=1
    fi
}

# skip NAME REASON: for what this kernel lacks.
skip() {
    echo "ok $1 # SKIP $2"
}

# A script's last line: its exit status.
finish() {
    exit "${failed:-0}"
}
