#!/usr/bin/env bash
# Two paths, one of them cut off without a word under verified load: the other carries on, and the first heals.
# lab: nics=2 seconds=150
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 64
simple_target m0 10.77.0.1 10.77.1.1
options=(--reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=2)
connect 10.77.0.1 "${options[@]}"
connect 10.77.1.1 "${options[@]}"
device=$(device_ready)
echo round-robin >"$(subsystem_folder)/iopolicy"
not_live() { ! controller_is "$1" live; }

load_start "$device"
for address in 10.77.0.1 10.77.1.1; do
    step "cutting off $address"
    host partition "$address"
    eventually 30 not_live "$address"
    load_moves
    host heal
    eventually 60 controller_is "$address" live
    load_moves
done
step "the load ends verified"
load_end
nvme disconnect -n "$NQN"
no_io_errors
