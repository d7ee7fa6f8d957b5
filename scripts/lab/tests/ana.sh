#!/usr/bin/env bash
# ANA: the states a target reports are the states the host acts on, changed back and forth under verified load.
# lab: nics=2 seconds=150
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "SPDK 20.07 cannot change an ANA state"

transport
memory_device m0 64
simple_target m0 10.77.0.1 10.77.1.1
connect 10.77.0.1
connect 10.77.1.1
device=$(device_ready)

# set_state ADDRESS STATE
set_state() {
    rpc nvmf_subsystem_listener_set_ana_state \
        "{\"nqn\":\"$NQN\",\"listen_address\":$(address_json "$1"),\"ana_state\":\"$2\"}"
}
# What the kernel thinks of the path through an address.
path_state() { cat "$(controller_of "$1")"/nvme*c*n*/ana_state; }
path_is() { [ "$(path_state "$1")" = "$2" ]; }
# Requests that went through an address.
path_ios() { awk '{ print $1 + $5 }' "$(controller_of "$1")"/nvme*c*n*/stat; }
moved() { [ "$(path_ios "$1")" -gt "$2" ]; }

path_is 10.77.0.1 optimized
path_is 10.77.1.1 optimized
load_start "$device"
active=10.77.0.1 passive=10.77.1.1
for state in inaccessible non_optimized inaccessible inaccessible; do
    step "$passive becomes $state, $active optimized"
    set_state "$active" optimized
    eventually 10 path_is "$active" optimized
    set_state "$passive" "$state"
    eventually 10 path_is "$passive" "${state/_/-}"
    eventually 10 moved "$active" "$(path_ios "$active")"
    swap=$active active=$passive passive=$swap
done
step "no path for a moment: I/O waits, and goes on"
set_state 10.77.0.1 inaccessible
set_state 10.77.1.1 inaccessible
eventually 10 path_is 10.77.1.1 inaccessible
set_state 10.77.0.1 optimized
load_moves
step "the load ends verified"
load_end
nvme ana-log "/dev/$(basename "$(controller_of 10.77.0.1)")" >/dev/null
nvme disconnect -n "$NQN"
no_io_errors
