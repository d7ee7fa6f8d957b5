#!/usr/bin/env bash
# The target under test: starts, kills and stops it, and speaks to it over JSON-RPC. POLLUX_LAB_TARGET swaps it.
#
# Sourced after lab.sh, used between lab_begin and lab_end. A target starts empty; scenarios build it up by RPC.
#   POLLUX_LAB_TARGET=pollux  (default) pollux-dataplane from POLLUX_BIN, or the newest of target/{release,debug}
#   POLLUX_LAB_TARGET=spdk    nvmf_tgt of scripts/spdk-peer, or of SPDK_DIR
#   POLLUX_LAB_CORES          the cores it runs on, as a list (default 0,1; SPDK: 1, since it polls and the guest
#                             needs the other)

LAB_TARGET=${POLLUX_LAB_TARGET:-pollux}
TARGET_START_SECONDS=30
TARGET_STOP_SECONDS=10

# The folder of the binaries to test.
pollux_bin() {
    local newest
    [ -z "${POLLUX_BIN:-}" ] || { echo "$POLLUX_BIN" && return; }
    # shellcheck disable=SC2012 # two names of our own choosing
    newest=$(ls -t "$ROOT"/target/{release,debug}/pollux-dataplane 2>/dev/null | head -n 1)
    [ -n "$newest" ] || die "no pollux-dataplane in target/; build it first: cargo build --release"
    dirname "$newest"
}

# Sets TARGET_COMMAND, an array.
target_command() {
    case $LAB_TARGET in
        pollux)
            TARGET_COMMAND=("$(pollux_bin)/pollux-dataplane" --rpc-socket "$SOCKETS/rpc"
                --cores "${POLLUX_LAB_CORES:-0,1}")
            ;;
        spdk)
            hugepages_ensure 512
            TARGET_COMMAND=("${SPDK_DIR:-$("$ROOT/scripts/spdk-peer")}/build/bin/nvmf_tgt" -r "$SOCKETS/rpc"
                -m "[${POLLUX_LAB_CORES:-1}]" -s 512 -u --huge-dir "$HUGE_DIR")
            ;;
        *) die "POLLUX_LAB_TARGET is pollux or spdk, not $LAB_TARGET" ;;
    esac
}

# hugepages_ensure PAGES: at least that many 2 MiB pages, and a hugetlbfs at HUGE_DIR.
hugepages_ensure() {
    local pages
    HUGE_DIR=$BUILD/hugepages
    pages=$(cat /proc/sys/vm/nr_hugepages)
    HUGEPAGES_BEFORE=${HUGEPAGES_BEFORE:-$pages}
    if [ "$pages" -lt "$1" ]; then
        sysctl -q -w "vm.nr_hugepages=$1" || die "SPDK needs $1 hugepages, and vm.nr_hugepages is not writable"
    fi
    mkdir -p "$HUGE_DIR"
    mountpoint -q "$HUGE_DIR" || mount -t hugetlbfs none "$HUGE_DIR" || die "cannot mount hugetlbfs"
}

# Gives back what hugepages_ensure took; called once the target is gone.
hugepages_restore() {
    [ -n "${HUGEPAGES_BEFORE:-}" ] || return 0
    sysctl -q -w "vm.nr_hugepages=$HUGEPAGES_BEFORE"
    umount "$HUGE_DIR" 2>/dev/null || true
    HUGEPAGES_BEFORE=''
}

target_rpc() { "$LAB/jsonrpc" "$SOCKETS/rpc" "$@"; }
target_answers() { target_rpc rpc_get_methods >/dev/null 2>&1; }
target_pid() { cat "$WORK/target.pid" 2>/dev/null; }
target_alive() { alive "$(target_pid)"; }
target_ended() { [ -e "$WORK/target.status" ]; }

# Returns once it answers. Its exit status will be in target.status, whoever waits for it.
target_start() {
    target_command || return 1
    rm -f "$WORK/target.status" "$SOCKETS/rpc"
    # shellcheck disable=SC2016 # the inner shell expands it
    (
        in_namespace bash -c 'echo $$ >"$0" && exec "$@"' "$WORK/target.pid" "${TARGET_COMMAND[@]}"
        echo $? >"$WORK/target.status"
    ) </dev/null >>"$WORK/target.log" 2>&1 &
    wait_until "$TARGET_START_SECONDS" "the target answered" target_up_or_ended
    target_answers && return 0
    tail -n 5 "$WORK/target.log" >&2
    return 1
}
target_up_or_ended() { target_answers || target_ended; }

# SIGKILL: what a power cut does to a process.
target_kill() {
    kill -KILL "$(target_pid)"
    wait_until "$TARGET_STOP_SECONDS" "the killed target was gone" target_ended
}

# SIGTERM; fails when it does not end in time, or not with status 0.
target_stop() {
    target_ended && { say "the target ended by itself, with status $(cat "$WORK/target.status")" && return 1; }
    kill -TERM "$(target_pid)"
    wait_until "$TARGET_STOP_SECONDS" "the target ended after SIGTERM" target_ended || return 1
    [ "$(cat "$WORK/target.status")" = 0 ] || { say "the target's status was $(cat "$WORK/target.status")" && return 1; }
}

# For cleaning up: whatever state it is in, it is gone afterwards.
target_end() {
    [ -e "$WORK/target.pid" ] && ! target_ended || return 0
    kill -KILL "$(target_pid)" 2>/dev/null
    wait_until "$TARGET_STOP_SECONDS" "the target was gone" target_ended
}

# The target and the command, where the guest sees them. Symbols stay out: the guest reads every byte of them.
inside_binaries() {
    local bin name
    bin=$(pollux_bin) && mkdir -p "$SHARE/bin" || return 1
    for name in pollux-dataplane pollux; do
        strip -o "$SHARE/bin/$name" "$bin/$name" || return 1
    done
    # What scenarios test a target with, where it is built.
    [ ! -e "$bin/examples/rdma_stranger" ] || strip -o "$SHARE/bin/rdma_stranger" "$bin/examples/rdma_stranger" || return 1
}
