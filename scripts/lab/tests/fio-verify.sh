#!/usr/bin/env bash
# Data: verified random reads and writes of one size and of mixed sizes, shallow and deep, on both block sizes.
# lab: nics=1 seconds=180
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 96
memory_device m1 64 512
file_device f0 128M
simple_target m0 10.77.0.1
namespace "$NQN" m1 2
namespace "$NQN" f0 3
connect 10.77.0.1 --queue-size=128
memory=$(device_ready 1) small=$(device_ready 2) file=$(device_ready 3)
expect_equal 4096 "$(cat "/sys/block/${memory##*/}/queue/logical_block_size")" "block size"
expect_equal 512 "$(cat "/sys/block/${small##*/}/queue/logical_block_size")" "block size"

for device in "$memory" "$file"; do
    for size in 4k 64k 512k 1M; do
        step "$device, $size"
        fio_verify "$device" --bs=$size --size=64M --io_size=32M --iodepth=32
    done
    step "$device, mixed sizes"
    fio_verify "$device" --bssplit=4k/40:64k/30:512k/20:1M/10 --size=64M --io_size=48M --iodepth=16
done
step "depth 1, and 128 from two jobs side by side"
fio_verify "$memory" --bs=4k --size=4M --iodepth=1
fio_verify "$memory" --bs=4k --size=24M --iodepth=128 --numjobs=2 --offset_increment=32M
step "512-byte blocks"
fio_verify "$small" --bs=512 --size=2M --iodepth=32
fio_verify "$small" --bssplit=512/50:1536/25:12k/25 --blockalign=512 --size=16M --iodepth=32
step "flushes between writes"
fio_verify "$file" --bs=4k --size=8M --iodepth=8 --fsync=16
nvme disconnect -n "$NQN"
no_io_errors
