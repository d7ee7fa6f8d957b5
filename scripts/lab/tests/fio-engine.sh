#!/usr/bin/env bash
# fio with our engine beside the kernel's initiator in one guest: each reads what the other wrote; how fast, for the record.
# lab: nics=1 seconds=240
# shellcheck source=../inside.sh
. /share/inside.sh

ENGINE=/share/libpollux_fio.so
[ -e "$ENGINE" ] || { echo "SKIPPED: libpollux_fio.so is not built" && exit 77; }

transport
memory_device m0 96
simple_target m0 10.77.0.1
connect 10.77.0.1 --queue-size=128
device=$(device_ready)

of_kernel() { fio --name=kernel --ioengine=io_uring --filename="$device" --direct=1 --eta=never --output=/tmp/fio.json "$@"; }
of_engine() {
    fio --name=engine "--ioengine=external:$ENGINE" --traddr=10.77.0.1 --trsvcid=$PORT --subnqn="$NQN" --thread=1 \
        --eta=never --output=/tmp/fio.json "$@"
}
# Every block says where it is.
pattern() { "$@" --bs=64k --iodepth=8 --size=64M --verify=pattern --verify_pattern=%o --verify_fatal=1; }

step "the engine reads what the kernel wrote"
pattern of_kernel --rw=write --do_verify=0
pattern of_engine --rw=read
step "the kernel reads what the engine wrote, elsewhere"
pattern of_engine --rw=write --do_verify=0 --offset=16M
pattern of_kernel --rw=read --offset=16M

# timed WHO WORKLOAD DEPTH OPTION…: a line that scripts/bench fio reads.
timed() {
    local who=$1 workload=$2 depth=$3
    shift 3
    "$who" --rw="$workload" --bs=4k --iodepth="$depth" --size=64M --time_based --runtime=2 --norandommap=1 \
        --output-format=json "$@"
    jq -c --arg who "${who#of_}" --arg workload "$workload" --argjson depth "$depth" \
        '.jobs[0][if $workload == "randread" then "read" else "write" end]
        | {who: $who, workload: $workload, depth: $depth, iops: .iops, p50_us: (.clat_ns.percentile["50.000000"] / 1000),
           p99_us: (.clat_ns.percentile["99.000000"] / 1000)}' /tmp/fio.json | sed 's/^/MEASURED: /'
}
for workload in randread randwrite; do
    for depth in 1 32; do
        step "$workload at depth $depth"
        timed of_kernel $workload $depth
        timed of_engine $workload $depth
    done
done
nvme disconnect -n "$NQN"
no_io_errors
