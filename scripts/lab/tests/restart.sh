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
load_start "$device"
for round in 1 2 3; do
    load_moves 2000
    step "kill number $round"
    host kill
    eventually 30 controller_is 10.77.0.1 connecting
    host start
    configure
    eventually 60 controller_is 10.77.0.1 live
done
step "the load ends verified"
load_end
fio_verify "$device" --bs=4k --size=8M --iodepth=16
nvme disconnect -n "$NQN"
no_io_errors
