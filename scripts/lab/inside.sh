#!/usr/bin/env bash
# What every scenario uses inside the guest: asking the host, building up the target, connecting, checking.
#
# Any command that fails ends the scenario and is printed with its line.

set -eEuo pipefail
trap 'echo "FAILED: line $LINENO of ${BASH_SOURCE[0]##*/} (from ${BASH_LINENO[0]}): $BASH_COMMAND"; dmesg | tail -n 15' ERR
# shellcheck disable=SC1091 # written by the runner
. /share/environment

NQN=nqn.2025-01.org.pollux:lab
PORT=4420
# A host that returns after a restart refuses a namespace whose identifiers changed.
FIRST_UUID=0b5ad4f1-4f0e-4d39-8b5e-6c1f6a3d2e10
ANSWER_SECONDS=60

fail() { echo "FAILED: $*" && dmesg | tail -n 15 && exit 1; }
step() { echo "- $* ($(cut -d' ' -f1 /proc/uptime) s)"; }
# What the stand-in target cannot do ends a scenario as skipped; ours is never excused.
beyond_spdk() { [ "$LAB_TARGET" != spdk ] || { echo "SKIPPED: $*" && exit 77; }; }

# host VERB ARGUMENT…: an action of scripts/lab/actions.sh, carried out by the host; prints what it said.
host() {
    local name=$EPOCHREALTIME.$BASHPID answer status
    answer=/share/answers/$name
    printf '%s\0' "$@" >"/share/requests/.$name"
    mv "/share/requests/.$name" "/share/requests/$name"
    eventually "$ANSWER_SECONDS" test -e "$answer" || fail "no answer to: $*"
    { read -r status && cat; } <"$answer"
    return "$status"
}
rpc() { host rpc "$@"; }

# peer COMMAND…: what the second guest does, in the one shell it has; prints what it said.
peer() {
    local name=/share/peer-$EPOCHREALTIME status
    printf '%q ' "$@" >"$name.new"
    mv "$name.new" "$name.request"
    eventually "$ANSWER_SECONDS" test -e "$name.answer" || fail "no answer of the peer to: $*"
    { read -r status && cat; } <"$name.answer"
    return "$status"
}

# eventually SECONDS COMMAND…: polls until it succeeds; fails with it when the time is up.
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -le "$deadline" ] || { echo "never came true: $*" && return 1; }
        sleep 0.05
    done
}
expect_equal() { [ "$1" = "$2" ] || fail "${3:-values} differ: wanted '$1', got '$2'"; }
expect_failure() {
    if "$@"; then fail "succeeded, but should not have: $*"; fi
}

# --- building up the target

transport() { rpc nvmf_create_transport "{\"trtype\":\"TCP\"${1:+,$1}}"; }
# memory_device NAME MIB [BLOCK]
memory_device() {
    local block=${3:-4096}
    rpc bdev_malloc_create "{\"name\":\"$1\",\"num_blocks\":$(($2 * 1048576 / block)),\"block_size\":$block}"
}
# file_device NAME SIZE [BLOCK]: keeps its data across a restart of the target.
file_device() {
    local path method=bdev_uring_create
    [ "$LAB_TARGET" != spdk ] || method=bdev_aio_create
    path=$(host file "$1" "$2")
    rpc "$method" "{\"name\":\"$1\",\"filename\":\"$path\",\"block_size\":${3:-4096}}"
}
# subsystem NQN [MORE_JSON]
subsystem() {
    local ana=',"ana_reporting":true'
    [ "$LAB_TARGET" != spdk ] || ana=
    rpc nvmf_create_subsystem "{\"nqn\":\"$1\",\"serial_number\":\"LAB0001\",\"model_number\":\"Lab\",\
\"allow_any_host\":true,\"max_namespaces\":32$ana${2:+,$2}}"
}
# namespace NQN DEVICE [NSID [UUID]]
namespace() {
    rpc nvmf_subsystem_add_ns \
        "{\"nqn\":\"$1\",\"namespace\":{\"bdev_name\":\"$2\"${3:+,\"nsid\":$3}${4:+,\"uuid\":\"$4\"}}}"
}
address_json() {
    local family=IPv4
    case $1 in *:*) family=IPv6 ;; esac
    echo "{\"trtype\":\"TCP\",\"adrfam\":\"$family\",\"traddr\":\"$1\",\"trsvcid\":\"$PORT\"}"
}
# listener NQN ADDRESS
listener() { rpc nvmf_subsystem_add_listener "{\"nqn\":\"$1\",\"listen_address\":$(address_json "$2")}"; }
# simple_target DEVICE ADDRESS…: a transport and one subsystem, NQN, with that device as namespace 1.
simple_target() {
    local device=$1 address
    shift
    subsystem "$NQN"
    namespace "$NQN" "$device" 1 "$FIRST_UUID"
    for address in "$@"; do listener "$NQN" "$address"; done
}

# --- the host side

# connect ADDRESS [NVME_CONNECT_ARGUMENT…]
connect() {
    local address=$1
    shift
    nvme connect -t tcp -a "$address" -s "$PORT" -n "$NQN" --nr-io-queues=2 "$@"
}
# The folder in /sys of the subsystem with this NQN (default NQN).
subsystem_folder() {
    local file
    file=$(grep -lx "${1:-$NQN}" /sys/class/nvme-subsystem/*/subsysnqn | head -n 1) && dirname "$file"
}
# The block device of a namespace of NQN: device [NSID]; nothing and a failure while there is none.
device() {
    local folder block
    folder=$(subsystem_folder) || return 1
    for block in "$folder"/nvme*n*; do
        [ -b "/dev/${block##*/}" ] && [ "$(cat "$block/nsid" 2>/dev/null)" = "${1:-1}" ] && echo "/dev/${block##*/}" && return 0
    done
    return 1
}
# Waits for it, then prints it.
device_ready() { eventually 20 device "${1:-1}" && device "${1:-1}"; }
device_absent() { ! device "$1"; }
# The controller in /sys that goes through an address.
controller_of() {
    local file
    file=$(grep -l "traddr=$1," /sys/class/nvme/nvme*/address | head -n 1) && dirname "$file"
}
controller_state() { cat "$(controller_of "$1")/state"; }
controller_is() { [ "$(controller_state "$1")" = "$2" ]; }
controllers() { find /sys/class/nvme -mindepth 1 -name 'nvme*' | wc -l; }

# fio_verify DEVICE [OPTION…]: a verified random mix that fails on the first difference or error.
fio_verify() {
    local device=$1
    shift
    timeout 170 fio --name=verify --filename="$device" --direct=1 --ioengine=libaio --rw=randrw --verify=crc32c \
        --verify_fatal=1 --do_verify=1 --verify_backlog=256 --randrepeat=0 --group_reporting --output-format=terse \
        --minimal "$@" >/tmp/fio.out || { cat /tmp/fio.out && return 1; }
}

# load_start DEVICE [OPTION…]: a verified load that goes on until load_end, which fails when any round of it did.
load_start() {
    touch /tmp/load
    (while [ -e /tmp/load ]; do fio_verify "$@" --bssplit=4k/80:64k/20 --size=48M --io_size=24M --iodepth=16; done) &
    LOAD=$!
    LOAD_STAT=/sys/block/${1##*/}/stat
    load_moves
}
load_writes() { awk '{ print $5 }' "$LOAD_STAT"; }
load_past() { [ "$(load_writes)" -gt "$1" ]; }
# Waits until the load has written this many requests more (default 500): it runs, and at full tilt.
load_moves() {
    local from
    from=$(load_writes)
    kill -0 "$LOAD" 2>/dev/null || fail "the load ended early"
    eventually 60 load_past $((from + ${1:-500}))
}
load_end() {
    kill -0 "$LOAD" 2>/dev/null || fail "the load ended early"
    rm /tmp/load
    wait "$LOAD"
}

# --- mapped devices; there is no udev to wait for, nor to name them

# mapped NAME TABLE: makes one; prints its path.
mapped() {
    dmsetup create --noudevsync "$1" --table "$2" && echo "/dev/dm-$(dmsetup info --columns --noheadings --options minor "$1")"
}
# mapped_becomes NAME TABLE
mapped_becomes() {
    dmsetup suspend --noudevsync --nolockfs --noflush "$1"
    dmsetup load "$1" --table "$2"
    dmsetup resume --noudevsync "$1"
}

no_io_errors() {
    if dmesg | grep -E 'I/O error|critical .* error|Buffer I/O|hung_task|blocked for more than'; then
        fail "the guest's kernel saw errors"
    fi
}

# --- soft-RDMA, and a target inside the guest

RDMA_PORT=4421
INSIDE_SOCKET=/run/pollux.sock

# rdma_device siw|rxe [CARD]: makes a device of that kind on a card (default 0); prints the address it is reached at.
rdma_device() {
    rdma link add "$1${2:-0}" type "$1" netdev "vec${2:-0}" && ip -4 -o addr show dev "vec${2:-0}" | sed 's#.* inet \([^/]*\)/.*#\1#'
}

# Starts a target in the guest; it sleeps when idle at once, because there is one processor for both ends.
inside_start() {
    printf '[reactors]\nmode = "interrupt"\n[buffers]\nsmall = 1024\nlarge = 128\n' >/tmp/pollux.toml
    # A killed target leaves its socket.
    rm -f "$INSIDE_SOCKET"
    trap 'tail -n 15 /tmp/target.log' EXIT
    POLLUX_LOG=debug /share/bin/pollux-dataplane --config /tmp/pollux.toml --rpc-socket "$INSIDE_SOCKET" >>/tmp/target.log 2>&1 &
    # shellcheck disable=SC2034 # scenarios kill it
    INSIDE_PID=$!
    eventually 20 inside_rpc rpc_get_methods || { cat /tmp/target.log && fail "the target in the guest did not start"; }
}
echo_inside_pid() { echo "$INSIDE_PID"; }
inside_wait() { wait "$INSIDE_PID"; }
inside_rpc() { /share/bin/pollux rpc --socket "$INSIDE_SOCKET" "$@"; }
# inside_listen rdma|tcp ADDRESS PORT
inside_listen() {
    inside_rpc nvmf_subsystem_add_listener "{\"nqn\":\"$NQN\",\"listen_address\":{\"trtype\":\"$1\",\"adrfam\":\"IPv4\",\
\"traddr\":\"$2\",\"trsvcid\":\"$3\"}}"
}
# inside_subsystem FILE_OR_MIB: transport RDMA and one subsystem, NQN, with a device as namespace 1: memory, or a file.
inside_subsystem() {
    inside_rpc nvmf_create_transport '{"trtype":"RDMA","max_io_size":1048576}'
    case $1 in
        /*) inside_rpc bdev_uring_create "{\"name\":\"d0\",\"filename\":\"$1\",\"block_size\":4096}" ;;
        *) inside_rpc bdev_malloc_create "{\"name\":\"d0\",\"num_blocks\":$(($1 * 256)),\"block_size\":4096}" ;;
    esac
    inside_rpc nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"serial_number\":\"LAB0001\",\"allow_any_host\":true,\
\"ana_reporting\":true}"
    inside_rpc nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"d0\",\"nsid\":1,\"uuid\":\"$FIRST_UUID\"}}"
}
# connect_rdma ADDRESS [NVME_CONNECT_ARGUMENT…]
connect_rdma() {
    local address=$1
    shift
    nvme connect -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN" --nr-io-queues=2 "$@"
}
