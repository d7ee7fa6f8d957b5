#!/usr/bin/env bash
# NVMe/RDMA between two guests, over either soft device: RDMA_KIND, siw or rxe. Sourced by scenarios, after inside.sh.

# shellcheck source=rdma-kernel.sh
. /share/rdma-kernel.sh

POLLUX=/share/bin/pollux

perf() {
    local port=$1 nqn=$2
    shift 2
    "$POLLUX" perf -t rdma -a "$there" -s "$port" -n "$nqn" --verify --io-count 1000 "$@" >/tmp/perf.out 2>&1 ||
        { cat /tmp/perf.out && fail "pollux perf $*"; }
}
live() { [ "$(cat "$(controller_of "$there")/state")" = live ]; }
not_live() { ! live; }

rdma_device "$RDMA_KIND" >/dev/null
there=$(peer rdma_device "$RDMA_KIND")
trap 'peer tail -n 15 /tmp/target.log' EXIT
peer truncate -s 96M /tmp/device.img
peer inside_start
peer inside_subsystem /tmp/device.img
peer inside_listen RDMA "$there" "$RDMA_PORT"

step "the kernel's host here, our target there"
nvme discover -t rdma -a "$there" -s "$RDMA_PORT" | grep -q "$NQN"
connect_rdma "$there" --keep-alive-tmo=2 --reconnect-delay=1
device=$(device_ready)
for size in 4k 128k 1024k; do fio_verify "$device" --bs="$size" --size=8M --iodepth=8; done

step "our target is killed under load and comes back"
load_start "$device"
peer kill -KILL "$(peer echo_inside_pid)"
peer inside_start
peer inside_subsystem /tmp/device.img
peer inside_listen RDMA "$there" "$RDMA_PORT"
eventually 60 live
load_moves 100

step "the cable between them is pulled under load, and plugged in again"
host unplug
eventually 60 not_live
host plug
eventually 120 live
load_moves 100
load_end
no_io_errors
nvme disconnect -n "$NQN"

step "our host here, our target there"
perf "$RDMA_PORT" "$NQN" --size 4k --depth 16 --workload randrw
perf "$RDMA_PORT" "$NQN" --size 128k --depth 4 --workload randrw

step "our host here, the kernel's target there"
peer kernel_target file
peer kernel_listen "$there" 1
perf "$KERNEL_PORT" "$KERNEL_NQN" --size 4k --depth 16 --workload randrw
perf "$KERNEL_PORT" "$KERNEL_NQN" --size 128k --depth 4 --workload randrw

step "our target there ends in order"
peer kill -TERM "$(peer echo_inside_pid)"
peer inside_wait
