#!/usr/bin/env bash
# How RDMA connections end, over either soft device: RDMA_KIND, siw or rxe. Sourced by scenarios, after inside.sh.
#
# Whatever happens to one end, the other one notices within a bounded time, says so, and serves on.

POLLUX=/share/bin/pollux
ENGINE=/share/libpollux_fio.so
# Of our host, in seconds; the target gives a host up after as long.
KEEP_ALIVE=2

# qpairs COUNT: so many queue pairs are open at the target.
qpairs() { [ "$(inside_rpc nvmf_subsystem_get_qpairs "{\"nqn\":\"$NQN\"}" | jq length)" = "$1" ]; }
connected() { [ "$(inside_rpc nvmf_subsystem_get_qpairs "{\"nqn\":\"$NQN\"}" | jq length)" -ge 2 ]; }
live() { [ "$(cat "$(controller_of "$address")/state")" = live ]; }
not_live() { ! live; }

# perf_start [KEEP_ALIVE TIMEOUT WORKLOAD]: a run of our host that only an error ends.
perf_start() {
    "$POLLUX" perf -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN" --workload "${3:-randrw}" --size 4k --depth 8 --time 600 \
        --keep-alive-tmo "${1:-$KEEP_ALIVE}" --timeout "${2:-5}" >/tmp/perf.out 2>&1 &
    PERF=$!
    eventually 20 connected
}
# ends_badly PID SECONDS: it ends by itself within that time, and says that it failed.
gone() { ! kill -0 "$1" 2>/dev/null; }
ends_badly() {
    eventually "$2" gone "$1" || fail "still there after $2 s"
    expect_failure wait "$1"
}
# refused SECONDS ARGUMENT…: our host does not get there, and says so in time.
refused() {
    local status=0
    timeout "$1" "$POLLUX" identify -t rdma -n "$NQN" --connect-timeout 2 "${@:2}" >/tmp/refused 2>&1 || status=$?
    [ $status -ne 124 ] || fail "still trying after $1 s: ${*:2}"
    [ $status -ne 0 ] || fail "connected: ${*:2}"
    cat /tmp/refused
}

address=$(rdma_device "$RDMA_KIND")
inside_start
inside_subsystem 96
inside_listen RDMA "$address" "$RDMA_PORT"

step "nobody listens; nobody is there"
refused 20 -a "$address" -s 4499
refused 20 -a 10.77.0.99 -s "$RDMA_PORT"

if [ "$RDMA_KIND" = siw ]; then
    step "a peer that accepts and says nothing; one that connects and says nothing"
    # The other ends of these connections never send: no bytes come from a file that is only held open.
    mkfifo /tmp/silence
    sleep 300 >/tmp/silence &
    SILENCE=$!
    nc -l -p 4498 </tmp/silence >/dev/null &
    refused 20 -a "$address" -s 4498
    nc "$address" "$RDMA_PORT" </tmp/silence >/dev/null &
    "$POLLUX" identify -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN" | grep -q LAB0001
    kill "$SILENCE"
fi

step "a host is killed"
perf_start
kill -KILL "$PERF"
wait "$PERF" 2>/dev/null || true
eventually 20 qpairs 0

step "a host stops answering, and finds itself dropped when it goes on"
perf_start
kill -STOP "$PERF"
eventually 30 qpairs 0
kill -CONT "$PERF"
ends_badly "$PERF" 30
cat /tmp/perf.out

step "the target stops answering: our host gives up, the kernel's returns"
connect_rdma "$address" --keep-alive-tmo=2 --reconnect-delay=1
device=$(device_ready)
fio_verify "$device" --bs=4k --size=4M --iodepth=8
perf_start
kill -STOP "$INSIDE_PID"
ends_badly "$PERF" 40
eventually 30 not_live
kill -CONT "$INSIDE_PID"
eventually 60 live
fio_verify "$device" --bs=4k --size=4M --iodepth=8

if [ -e "$ENGINE" ]; then
    step "the target is killed under fio's engine: errors, no hang"
    fio --name=end "--ioengine=external:$ENGINE" --transport=rdma --traddr="$address" --trsvcid="$RDMA_PORT" --subnqn="$NQN" \
        --completion=interrupt --thread=1 --rw=randrw --bs=4k --iodepth=8 --size=64M --time_based --runtime=600 --eta=never \
        --command_timeout=5 --keep_alive_tmo=2 >/tmp/engine.out 2>&1 &
    FIO=$!
    fio_connected() { qpairs 4; } # the kernel's two, and two
    eventually 20 fio_connected
    kill -KILL "$INSIDE_PID"
    wait "$INSIDE_PID" 2>/dev/null || true
    ends_badly "$FIO" 40
    grep -q 'connection lost' /tmp/engine.out || { cat /tmp/engine.out && fail "fio's engine did not say why"; }
    inside_start
    inside_subsystem 96
    inside_listen RDMA "$address" "$RDMA_PORT"
    eventually 60 live
fi

step "the controller is reset under load, three times"
load_start "$device"
for _ in 1 2 3; do
    echo 1 >"$(controller_of "$address")/reset_controller"
    eventually 60 live
    load_moves 100
done

# ends_soon REASON: our run ends before keep-alive or a time-out could end it, and says why.
ends_soon() {
    ends_badly "$PERF" 6
    cat /tmp/perf.out
    grep -q "$1" /tmp/perf.out || fail "our host does not say why"
}

if [ "$RDMA_KIND" = siw ]; then
    step "the link goes down under our host too: it ends soon; the kernel's returns"
    perf_start 10 60 randread
    eventually 20 qpairs 4 # the kernel's two, and two
    ip link set vec0 down
    # In one guest the connection itself would go on.
    ends_soon 'its port is down'
    ip link set vec0 up
    eventually 60 live
    load_moves 100

    step "the link goes down under load and comes back"
    ip link set vec0 down
    ip link set vec0 up
    eventually 60 live
    load_moves 100
    eventually 20 grep -q 'a port of an RDMA device is down' /tmp/target.log
    eventually 20 grep -q 'a port of an RDMA device is up' /tmp/target.log
    inside_rpc nvmf_subsystem_get_listeners "{\"nqn\":\"$NQN\"}" | grep -q '"listening": *true'

    step "the address goes away under load and comes back"
    ip addr del "$address/24" dev vec0
    eventually 60 not_live
    ip addr add "$address/24" dev vec0
    eventually 60 live
    load_moves 100
    load_end
    no_io_errors
    nvme disconnect -n "$NQN"
else
    # Soft RoCE with both ends on one device makes no connection any more after its link was down, not even the kernel's
    # host with the kernel's target: what can be asked is that nothing is held.
    step "the link goes down: our host ends soon, and the kernel's is let go"
    load_end
    no_io_errors
    perf_start 10 60 randread
    eventually 20 qpairs 4 # the kernel's two, and two
    ip link set vec0 down
    # Soft RoCE puts what is on the port in error as well, and that may be noticed first.
    ends_soon 'its port is down\|closed the connection'
    eventually 60 not_live
    eventually 20 grep -q 'a port of an RDMA device is down' /tmp/target.log
fi

step "nothing is left behind, and the target ends in order"
eventually 40 qpairs 0
kill -TERM "$INSIDE_PID"
wait "$INSIDE_PID"
