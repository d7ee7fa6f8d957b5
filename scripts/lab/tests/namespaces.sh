#!/usr/bin/env bash
# Namespaces that come and go while a host is connected: it hears of it, and its devices follow.
# lab: nics=1 seconds=60
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 16
memory_device m1 32
simple_target m0 10.77.0.1
connect 10.77.0.1
first=$(device_ready 1)
controller=/dev/$(basename "$(controller_of 10.77.0.1)")
capacity() { cat "/sys/block/${1##*/}/size"; }

step "a namespace added is a device"
namespace "$NQN" m1 2
second=$(device_ready 2)
expect_equal $((32 * 2048)) "$(capacity "$second")" sectors
fio_verify "$second" --bs=4k --size=4M --iodepth=8

step "a namespace removed takes its device along, and only that one"
rpc nvmf_subsystem_remove_ns "{\"nqn\":\"$NQN\",\"nsid\":2}"
eventually 10 device_absent 2
fio_verify "$first" --bs=4k --size=4M --iodepth=8

step "an identifier is free for another device"
memory_device m2 8
namespace "$NQN" m2 2
second=$(device_ready 2)
expect_equal $((8 * 2048)) "$(capacity "$second")" sectors
expect_equal "1 2" "$(nvme list-ns "$controller" -o json | jq -r '[.nsid_list[].nsid] | join(" ")')" "active namespaces"
nvme changed-ns-list-log "$controller" >/dev/null
nvme disconnect -n "$NQN"
