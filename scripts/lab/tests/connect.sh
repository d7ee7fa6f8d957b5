#!/usr/bin/env bash
# Connecting: two listeners, IPv4 and IPv6, queues as asked, unknown names refused, clean ends.
# lab: nics=2 seconds=90
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 64
simple_target m0 10.77.0.1 10.77.1.1 fd77::1

step "connects over each listener"
connect 10.77.0.1
connect 10.77.1.1
connect fd77::1
expect_equal 3 "$(controllers)" controllers
device=$(device_ready)
for address in 10.77.0.1 10.77.1.1 fd77::1; do
    expect_equal live "$(controller_state "$address")" "state of $address"
    # The admin queue, and one for the guest's only processor.
    expect_equal 2 "$(cat "$(controller_of "$address")/queue_count")" "queues of $address"
done

step "serves I/O over every path"
echo round-robin >"$(subsystem_folder)/iopolicy"
fio_verify "$device" --bs=4k --size=8M --iodepth=16

step "refuses what it does not know"
expect_failure nvme connect -t tcp -a 10.77.0.1 -s "$PORT" -n "$NQN.unknown" 2>/dev/null

step "survives a reset, and a disconnect with its device in use"
nvme reset "/dev/$(basename "$(controller_of 10.77.0.1)")"
eventually 10 controller_is 10.77.0.1 live
nvme disconnect -d "$(basename "$(controller_of 10.77.0.1)")"
fio_verify "$device" --bs=4k --size=4M --iodepth=16
nvme disconnect -n "$NQN"
expect_equal 0 "$(controllers)" controllers
no_io_errors
