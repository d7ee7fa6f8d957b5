#!/usr/bin/env bash
# The target killed with SIGKILL under verified load, and started again: the host returns, and no acknowledged write is lost.
# lab: nics=1 seconds=180
# shellcheck source=../inside.sh
. /share/inside.sh

configure() {
    transport
    file_device f0 64M
    simple_target f0 10.77.0.1
}

configure
connect 10.77.0.1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
device=$(device_ready)
fio_verify "$device" --bssplit=4k/80:64k/20 --size=48M --iodepth=16 --time_based --runtime=14 &
load=$!
for round in 1 2 3; do
    sleep 2 # the load under which the target dies
    step "kill number $round"
    kill -0 "$load" || fail "the load ended early"
    host kill
    eventually 20 controller_is 10.77.0.1 connecting
    host start
    configure
    eventually 30 controller_is 10.77.0.1 live
done
step "the load ends verified"
wait "$load"
fio_verify "$device" --bs=4k --size=8M --iodepth=16
nvme disconnect -n "$NQN"
no_io_errors
