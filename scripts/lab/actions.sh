#!/usr/bin/env bash
# What a scenario inside the guest can ask of the host: RPCs to the target, its end and return, partitions, replayed logs of writes,
# and what nodes.sh has for clusters.
#
# Sourced after target.sh and nodes.sh. A request is a file of NUL-separated words moved into $SHARE/requests; the answer, its status
# on the first line, is moved into $SHARE/answers under the same name.

PORT=4420

# Drops both directions of the path to one of the host's addresses, as a dead switch does.
partition() {
    in_namespace nft -f - <<RULES
table inet lab {
    chain in  { type filter hook input priority 0; ip daddr $1 tcp dport $PORT drop; }
    chain out { type filter hook output priority 0; ip saddr $1 tcp sport $PORT drop; }
}
RULES
}

# replay_check BYTES: whether a store on a device of so many bytes is sound after every part of the log of writes that the
# guest left in /share/log.
replay_check() {
    local image status=0
    image=$(mktemp /dev/shm/pollux-replay.XXXXXX)
    "$LAB/replay-log" "$SHARE/log" "$image" "$1" --check "$(pollux_bin)/pollux" store check --data || status=$?
    rm -f "$image"
    return "$status"
}
# replay_to BYTES MARK: prints the file that holds what the device held at that mark.
replay_to() { "$LAB/replay-log" "$SHARE/log" "$WORK/replayed" "$1" --to "$2" >&2 && echo "$WORK/replayed"; }

action() {
    local verb=$1
    shift
    case $verb in
        rpc) target_rpc "$@" ;;
        start) target_start ;;
        kill) target_kill ;;
        stop) target_stop ;;
        partition) partition "$1" ;;
        heal) in_namespace nft delete table inet lab ;;
        unplug) ip -n "$NAMESPACE" link set peer0 nomaster ;;
        node) node_action "$@" ;;
        plug) ip -n "$NAMESPACE" link set peer0 master bridge0 ;;
        path) echo "$WORK/$1" ;;
        file) truncate -s "$2" "$WORK/$1" && echo "$WORK/$1" ;;
        replay-check) replay_check "$1" ;;
        replay-to) replay_to "$1" "$2" ;;
        log) grep -c -- "$1" "$WORK/target.log" ;;
        *) echo "no such action: $verb" && return 2 ;;
    esac
}

answer() {
    local name=$1 words output
    mapfile -d '' words <"$SHARE/requests/$name"
    output=$(action "${words[@]}" 2>&1)
    printf '%s\n%s\n' $? "$output" >"$SHARE/answers/.$name"
    mv "$SHARE/answers/.$name" "$SHARE/answers/$name"
}

# serve_start: answers requests until serve_stop. Returns when it is watching.
serve_start() {
    mkdir -p "$SHARE/requests" "$SHARE/answers"
    mkfifo "$WORK/watch"
    : >"$WORK/watch.log"
    inotifywait -m -e moved_to --format %f "$SHARE/requests" >"$WORK/watch" 2>>"$WORK/watch.log" &
    WATCHER=$!
    (while read -r name; do answer "$name"; done <"$WORK/watch") &
    SERVER=$!
    wait_until 10 "inotifywait was watching" grep -q established "$WORK/watch.log"
}

serve_stop() {
    [ -n "${WATCHER:-}" ] || return 0
    kill "$WATCHER" 2>/dev/null
    wait "$SERVER" 2>/dev/null
    WATCHER=''
}
