#!/usr/bin/env bash
# What is asked of NVMe/RDMA over either soft device: RDMA_KIND, siw or rxe. Sourced by scenarios, after inside.sh.

# shellcheck source=rdma-kernel.sh
. /share/rdma-kernel.sh

POLLUX=/share/bin/pollux

# perf PORT NQN OPTION…: a verified run of our host.
perf() {
    local port=$1 nqn=$2
    shift 2
    "$POLLUX" perf -t rdma -a "$address" -s "$port" -n "$nqn" --verify --io-count 2000 "$@" >/tmp/perf.out 2>&1 ||
        { cat /tmp/perf.out && fail "pollux perf $*"; }
}

# As connected says: controllers that are live.
live() { [ "$(grep -lx live /sys/class/nvme/nvme*/state | wc -l)" = "$1" ]; }

address=$(rdma_device "$RDMA_KIND")
truncate -s 96M /tmp/device.img
inside_start
inside_subsystem /tmp/device.img
inside_listen RDMA "$address" "$RDMA_PORT"

step "the kernel's host discovers us"
nvme discover -t rdma -a "$address" -s "$RDMA_PORT" >/tmp/discovery
grep -q "trtype:  rdma" /tmp/discovery
grep -q "$NQN" /tmp/discovery

step "and connects; what it does not know is refused"
expect_failure nvme connect -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN.unknown" 2>/dev/null
expect_failure nvme connect -t rdma -a "$address" -s 4499 -n "$NQN" 2>/dev/null
connect_rdma "$address"
device=$(device_ready)
inside_rpc nvmf_subsystem_get_qpairs "{\"nqn\":\"$NQN\"}" >/tmp/qpairs
grep -q RDMA /tmp/qpairs
inside_rpc nvmf_get_stats '{}' | grep -q RDMA

for size in 4k 16k 128k 1024k; do
    step "verifies $size"
    fio_verify "$device" --bs="$size" --size=12M --iodepth=8
done

step "ext4 lives on it"
mkfs.ext4 -q "$device"
mount "$device" /mnt
cp /share/bin/pollux /mnt/copy && sync
cmp /share/bin/pollux /mnt/copy
umount /mnt
fsck.ext4 -fn "$device" >/dev/null

step "a second path over TCP; either one goes away"
inside_rpc nvmf_create_transport '{"trtype":"TCP"}'
# shellcheck disable=SC2153 # of inside.sh
inside_listen TCP "$address" "$PORT"
nvme connect -t tcp -a "$address" -s "$PORT" -n "$NQN" --nr-io-queues=1
eventually 10 live 2
echo round-robin >"$(subsystem_folder)/iopolicy"
load_start "$device"
inside_rpc nvmf_subsystem_remove_listener "{\"nqn\":\"$NQN\",\"listen_address\":{\"trtype\":\"RDMA\",\"adrfam\":\"IPv4\",\
\"traddr\":\"$address\",\"trsvcid\":\"$RDMA_PORT\"}}"
eventually 10 live 1
load_moves 200
inside_listen RDMA "$address" "$RDMA_PORT"
eventually 30 live 2
load_moves 200
load_end

step "the target is killed and comes back, under load"
load_start "$device"
kill -KILL "$INSIDE_PID"
wait "$INSIDE_PID" 2>/dev/null || true
inside_start
inside_subsystem /tmp/device.img
inside_listen RDMA "$address" "$RDMA_PORT"
eventually 30 live 1
load_moves 200
load_end
no_io_errors
nvme disconnect -n "$NQN"

step "our host against our target"
"$POLLUX" discover -t rdma -a "$address" -s "$RDMA_PORT" | grep -q "$NQN"
"$POLLUX" identify -t rdma -a "$address" -s "$RDMA_PORT" -n "$NQN" | grep -q LAB0001
perf "$RDMA_PORT" "$NQN" --size 4k --depth 16 --workload randrw
perf "$RDMA_PORT" "$NQN" --size 128k --depth 4 --workload randrw

step "our host against the kernel's target"
kernel_target file
kernel_listen "$address" 1
perf "$KERNEL_PORT" "$KERNEL_NQN" --size 4k --depth 16 --workload randrw
perf "$KERNEL_PORT" "$KERNEL_NQN" --size 128k --depth 4 --workload randrw

step "an idle target sleeps, and ends in order"
before=$(cut -d' ' -f14,15 "/proc/$INSIDE_PID/stat" | tr ' ' '+')
sleep 3 # what is measured is what it does in that time
after=$(cut -d' ' -f14,15 "/proc/$INSIDE_PID/stat" | tr ' ' '+')
[ $(((after) - (before))) -le 15 ] || fail "$(((after) - (before))) ticks of processor time in 3 idle seconds"
kill -TERM "$INSIDE_PID"
wait "$INSIDE_PID"
