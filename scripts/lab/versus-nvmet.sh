#!/usr/bin/env bash
# Inside the guest: our target and the kernel's beside each other over one soft-RDMA device, loaded in turn by the kernel's
# host. /share/environment gives KINDS, PAIRS and SECONDS_EACH. Prints a table for each device.
# shellcheck source=inside.sh
. /share/inside.sh
# shellcheck source=rdma-kernel.sh
. /share/rdma-kernel.sh

# name | fio's options | fields of its terse output: IOPS, mean completion latency in us
WORKLOADS='
randread-4k-d1  |--rw=randread --bs=4k --iodepth=1   |8 |16
randread-4k-d32 |--rw=randread --bs=4k --iodepth=32  |8 |16
randwrite-4k-d1 |--rw=randwrite --bs=4k --iodepth=1  |49|57
randwrite-4k-d32|--rw=randwrite --bs=4k --iodepth=32 |49|57
read-128k-d8    |--rw=read --bs=128k --iodepth=8     |8 |16
write-128k-d8   |--rw=write --bs=128k --iodepth=8    |49|57
'

device_of() {
    local block
    for block in "$(subsystem_folder "$1")"/nvme*n1; do [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return; done
    return 1
}

# run DEVICE OPTIONS IOPS_FIELD LATENCY_FIELD
run() {
    # shellcheck disable=SC2086 # a list of options
    fio --name=versus --filename="$1" --direct=1 --ioengine=libaio --time_based --runtime="$SECONDS_EACH" --size=48M \
        --randrepeat=0 --minimal $2 | cut -d';' -f"$3,$4" | tr ';' ' '
}

median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

measure() {
    local name=$1 options=$2 iops=$3 latency=$4 pair
    : >/tmp/ours && : >/tmp/theirs
    for ((pair = 0; pair < PAIRS; pair++)); do
        run "$ours" "$options" "$iops" "$latency" >>/tmp/ours
        run "$theirs" "$options" "$iops" "$latency" >>/tmp/theirs
    done
    awk -v name="$name" -v a="$(cut -d' ' -f1 /tmp/ours | median)" -v b="$(cut -d' ' -f1 /tmp/theirs | median)" \
        -v x="$(cut -d' ' -f2 /tmp/ours | median)" -v y="$(cut -d' ' -f2 /tmp/theirs | median)" \
        'BEGIN { printf "%-17s %9d %9d %7.2f %10.0f %10.0f\n", name, a, b, a / b, x, y }'
}

card=0
for kind in $KINDS; do
    address=$(rdma_device "$kind" "$card")
    if [ "$card" = 0 ]; then
        inside_start && inside_subsystem 64 && kernel_target memory
    fi >/dev/null
    inside_listen RDMA "$address" "$RDMA_PORT" >/dev/null
    kernel_listen "$address" $((card + 1))
    nvme connect -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN" --nr-io-queues=1 >/dev/null
    nvme connect -t rdma -a "$address" -s "$KERNEL_PORT" -n "$KERNEL_NQN" --nr-io-queues=1 >/dev/null
    eventually 20 device_of "$NQN" && eventually 20 device_of "$KERNEL_NQN"
    ours=$(device_of "$NQN") theirs=$(device_of "$KERNEL_NQN")
    # Both devices have content from the start.
    for device in "$ours" "$theirs"; do dd if=/dev/zero of="$device" bs=1M count=48 oflag=direct 2>/dev/null; done
    printf '\n%s: %s runs of %s s, alternating; medians\n' "$kind" "$PAIRS" "$SECONDS_EACH"
    printf '%-17s %9s %9s %7s %10s %10s\n' workload IOPS nvmet ratio 'latency us' 'nvmet us'
    while IFS='|' read -r name options iops latency; do
        [ -z "$name" ] || measure "${name%% *}" "$options" "${iops%% *}" "$latency" </dev/null
    done <<<"$WORKLOADS"
    nvme disconnect -n "$NQN" >/dev/null && nvme disconnect -n "$KERNEL_NQN" >/dev/null
    card=$((card + 1))
done
trap - EXIT
