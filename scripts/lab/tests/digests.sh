#!/usr/bin/env bash
# Header and data digests, apart and together, under verified I/O of sizes that take every way through the transport.
# lab: nics=1 seconds=120
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 64
simple_target m0 10.77.0.1
for digests in --hdr-digest --data-digest "--hdr-digest --data-digest"; do
    step "$digests"
    # shellcheck disable=SC2086 # words
    connect 10.77.0.1 $digests
    device=$(device_ready)
    fio_verify "$device" --bs=4k --size=16M --iodepth=32
    fio_verify "$device" --bssplit=8k/25:12k/25:128k/25:1M/25 --size=32M --io_size=32M --iodepth=8
    nvme disconnect -n "$NQN"
done
no_io_errors
if dmesg | grep -i 'digest error'; then fail "digests did not match"; fi
