#!/usr/bin/env bash
# A volume with three copies on three nodes under verified load through native multipath: heads and replicas die, hang and are cut off.
# lab: nics=1 seconds=1500 nodes=3
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "replicated volumes"

ROUNDS=${LAB_ROUNDS:-1}
# Longer than every time-out there is: lease, keep-alive, management's patience, reconnection.
HANG_SECONDS=12
# A node that was killed stays away for so long; a device that fails, fails for so long.
AWAY_SECONDS=2
WHOLE_SECONDS=90
GAPS=/tmp/gaps

pause() { read -r -t "$1" <>/tmp/nothing || true; }
now_ms() { local now=${EPOCHREALTIME/./} && echo "${now%???}"; }
field() { host node record | jq -r ".$1"; }
head_is() { [ "$(field head)" = "$1" ]; }
head_is_not() { [ "$(field head)" != "$1" ]; }
out_of_sync() { [ "$(field "in_sync | index($1)")" = null ]; }
is_whole() { [ "$(field whole)" = true ]; }
# The two nodes that are not the head.
replicas() { local head && head=$(field head) && echo $(((head + 1) % 3)) $(((head + 2) % 3)); }

# Notes how long nothing completed, again and again: one line for each pause of more than 50 ms, its end and length.
watch_gaps() {
    local stat=$1 reads writes last='' now since
    since=$(now_ms)
    while [ -e /tmp/load ]; do
        read -r reads _ _ _ writes _ <"$stat"
        now=${EPOCHREALTIME/./} now=${now%???}
        if [ "$reads.$writes" != "$last" ]; then
            [ $((now - since)) -le 50 ] || echo "$now $((now - since))" >>"$GAPS"
            last=$reads.$writes since=$now
        fi
        pause 0.01
    done
}
# The longest pause that ended after a moment.
stall_since() { awk -v from="$1" '$1 >= from && $2 > most { most = $2 } END { print most + 0 }' "$GAPS"; }

# A trickle of writes beside the load, so that something completes all the time when anything can.
trickle_start() {
    fio --name=trickle --filename="$1" --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --offset=96M --size=4M --time_based \
        --runtime=3600 --rate_iops=100 --output=/tmp/trickle.out >/dev/null 2>&1 &
    TRICKLE=$!
}

# fault NAME: does what the function of that name says, waits for full redundancy, and notes what it cost.
fault() {
    local name=$1 began ended copied wanted head
    shift
    eventually "$WHOLE_SECONDS" is_whole
    load_moves 100
    head=$(field head) copied=$(field copied) wanted=$(field to_copy)
    step "$name (head $head)"
    began=$(now_ms)
    "$@"
    ended=$(now_ms)
    # What a head proposes takes a moment to be recorded.
    pause 0.5
    eventually "$WHOLE_SECONDS" is_whole || { host node record && fail "$name: never whole again"; }
    echo "$name|$(($(now_ms) - ended))|$((($(field copied) - copied) >> 20))|$((($(field to_copy) - wanted) >> 20))|$began" >>/tmp/faults
    load_moves 100
    echo "$(stall_since "$began") ms" >>/tmp/stalls
    step "  whole again; stall $(tail -n 1 /tmp/stalls)"
}

kill_head() {
    local head && head=$(field head)
    host node down "$head"
    eventually 30 head_is_not "$head"
    pause "$AWAY_SECONDS"
    host node up "$head"
}
kill_replica() {
    local one && read -r one _ <<<"$(replicas)"
    host node down "$one"
    eventually 30 out_of_sync "$one"
    pause "$AWAY_SECONDS"
    host node up "$one"
}
kill_head_then_replica() {
    local head one && head=$(field head) && read -r _ one <<<"$(replicas)"
    host node down "$head" "$one"
    eventually 30 head_is_not "$head"
    eventually 30 out_of_sync "$one"
    pause "$AWAY_SECONDS"
    host node up "$one" "$head"
}
kill_replica_then_head() {
    local head one && head=$(field head) && read -r one _ <<<"$(replicas)"
    host node down "$one"
    eventually 30 out_of_sync "$one"
    host node down "$head"
    eventually 30 head_is_not "$head"
    pause "$AWAY_SECONDS"
    host node up "$head" "$one"
}
kill_both_replicas() {
    local one two && read -r one two <<<"$(replicas)"
    host node down "$one" "$two"
    eventually 30 out_of_sync "$one"
    eventually 30 out_of_sync "$two"
    pause "$AWAY_SECONDS"
    host node up "$one" "$two"
}
kill_all() {
    host node down 0 1 2
    pause "$AWAY_SECONDS"
    host node up 0 1 2
}
hang_head() {
    local head && head=$(field head)
    host node hang "$head"
    eventually 30 head_is_not "$head"
    pause "$HANG_SECONDS"
    host node wake "$head"
}
hang_replica() {
    local one && read -r one _ <<<"$(replicas)"
    host node hang "$one"
    eventually 30 out_of_sync "$one"
    pause "$HANG_SECONDS"
    host node wake "$one"
}
# cut_off A B [both]: B's packets do not reach A.
cut_off() {
    host node cut "$1" "$2"
    [ -z "${3:-}" ] || host node cut "$2" "$1"
    pause "$HANG_SECONDS"
    host node heal
}
cut_head_and_replica() { cut_off "$(field head)" "$(replicas | cut -d' ' -f1)" both; }
cut_replica_to_head() { cut_off "$(field head)" "$(replicas | cut -d' ' -f1)"; }
cut_head_to_replica() { cut_off "$(replicas | cut -d' ' -f2)" "$(field head)"; }
cut_replicas() { cut_off "$(replicas | cut -d' ' -f1)" "$(replicas | cut -d' ' -f2)" both; }
cut_head_from_both() {
    local head one two && head=$(field head) && read -r one two <<<"$(replicas)"
    host node cut "$one" "$head"
    cut_off "$two" "$head"
}
# Only the host can tell that it does not reach the head; somebody moves the head.
cut_head_from_host() {
    local head one && head=$(field head) && read -r one _ <<<"$(replicas)"
    host node cut "$head" guest
    pause 1
    host node move "$one"
    eventually 30 head_is "$one"
    pause "$HANG_SECONDS"
    host node heal
}
drain_head() {
    local one && read -r one _ <<<"$(replicas)"
    host node move "$one"
    eventually 30 head_is "$one"
}
# broken NODE: its device fails every I/O for a while.
broken() {
    host node rpc "$1" bdev_error_inject_error '{"name":"EE_disk","io_type":"all","error_type":"failure","num":1000000000}'
    eventually 30 out_of_sync "$1"
    pause "$AWAY_SECONDS"
    host node rpc "$1" bdev_error_inject_error '{"name":"EE_disk","io_type":"clear"}'
}
break_head_device() { broken "$(field head)"; }
break_replica_device() { broken "$(replicas | cut -d' ' -f1)"; }

FAULTS=(drain_head kill_head kill_replica kill_head_then_replica kill_replica_then_head kill_both_replicas hang_head hang_replica
    cut_head_and_replica cut_replica_to_head cut_head_to_replica cut_replicas cut_head_from_both cut_head_from_host
    break_head_device break_replica_device kill_all)
[ -z "$LAB_FAULTS" ] || read -ra FAULTS <<<"$LAB_FAULTS"

# Median and greatest of a column of numbers.
spread() { sort -n | awk '{ all[NR] = $1 } END { printf "%d|%d", all[int((NR + 1) / 2)], all[NR] }'; }
table() {
    local name rows
    echo "TABLE: fault                     runs  stall ms p50   max   resynced MiB of dirty   whole again ms p50    max"
    for name in "${FAULTS[@]}"; do
        rows=$(paste -d'|' /tmp/stalls /tmp/faults | grep "ms|$name|") || continue
        IFS='|' read -r stall_p50 stall_max <<<"$(cut -d' ' -f1 <<<"$rows" | spread)"
        IFS='|' read -r whole_p50 whole_max <<<"$(cut -d'|' -f3 <<<"$rows" | spread)"
        printf 'TABLE: %-24s %5d %13d %5d %14d %8d %20d %6d\n' "$name" "$(wc -l <<<"$rows")" "$stall_p50" "$stall_max" \
            "$(awk -F'|' '{ all += $4 } END { print all }' <<<"$rows")" "$(awk -F'|' '{ all += $5 } END { print all }' <<<"$rows")" \
            "$whole_p50" "$whole_max"
    done
}

mkfifo /tmp/nothing
: >"$GAPS"
host node up 0 1 2
host node manage
eventually 30 is_whole
for address in 10.77.0.11 10.77.0.12 10.77.0.13; do
    connect "$address" --reconnect-delay=1 --ctrl-loss-tmo=600 --keep-alive-tmo=2
done
device=$(device_ready)
trickle_start "$device"
load_start "$device"
watch_gaps "/sys/block/${device##*/}/stat" &
for ((round = 1; round <= ROUNDS; round++)); do
    for name in "${FAULTS[@]}"; do fault "$name" "$name"; done
done
step "the load ends verified"
load_end
kill -0 "$TRICKLE" || fail "the trickle of writes failed: $(cat /tmp/trickle.out)"
kill "$TRICKLE"
host node rpc "$(field head)" volume_get '{"name":"v"}' | jq -c .
host node quiet
host node compare
nvme disconnect -n "$NQN"
no_io_errors
table
