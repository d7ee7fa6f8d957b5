#!/usr/bin/env bash
# What is asked of NVMe/RDMA over either soft device: RDMA_KIND, siw or rxe. Sourced by scenarios, after inside.sh.

# shellcheck source=rdma-kernel.sh
. /share/rdma-kernel.sh

POLLUX=/share/bin/pollux
ENGINE=/share/libpollux_fio.so
FRONT_NQN=nqn.2025-01.org.pollux:front
FRONT_PORT=4440
FRONT_SOCKET=/run/front.sock

# perf PORT NQN OPTION…: a verified run of our host.
perf() {
    local port=$1 nqn=$2
    shift 2
    "$POLLUX" perf -t rdma -a "$address" -s "$port" -n "$nqn" --verify --io-count 2000 "$@" >/tmp/perf.out 2>&1 ||
        { cat /tmp/perf.out && fail "pollux perf $*"; }
}

# engine OPTION…: a verified run of fio with our engine, over RDMA. It sleeps, because there is one processor for both ends.
engine() {
    timeout 120 fio --name=engine "--ioengine=external:$ENGINE" --transport=rdma --traddr="$address" --trsvcid="$RDMA_PORT" \
        --subnqn="$NQN" --completion=interrupt --thread=1 --rw=randrw --verify=crc32c --verify_fatal=1 --do_verify=1 \
        --verify_backlog=64 --randrepeat=0 --eta=never --output=/tmp/engine.out "$@" || { cat /tmp/engine.out && fail "fio $*"; }
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
# A stranger that knows the connection manager but not NVMe is told why it is refused.
expect_failure timeout 20 rping -c -a "$address" -p "$RDMA_PORT" -C 1 >/tmp/rping 2>&1
grep -q REJECTED /tmp/rping
refusal='invalid private data length'
# InfiniBand's private data has one length, whatever is in it: here nothing but zeroes.
[ "$RDMA_KIND" = siw ] || refusal='invalid host send queue size'
grep -q "connection rejected.*$refusal" /tmp/target.log
connect_rdma "$address"
device=$(device_ready)
if [ -e /share/bin/rdma_stranger ]; then
    step "what no host may ask for is refused with its own status, and the target serves on"
    form=exact
    # InfiniBand fills private data up.
    [ "$RDMA_KIND" = siw ] || form=padded
    /share/bin/rdma_stranger "$address:$RDMA_PORT" "$form" || fail "an answer was another than it should be"
    fio_verify "$device" --bs=4k --size=2M --iodepth=8
else
    echo "- examples/rdma_stranger is not built: no request as no host may make it"
fi
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

if [ -e "$ENGINE" ]; then
    step "fio with our engine, in commands of their own size and in pieces"
    for size in 4k 128k 1024k; do engine --bs="$size" --size=12M --iodepth=8; done
    engine --rw=randtrimwrite --verify=0 --bs=4k --size=2M --iodepth=4 --fsync=64
    step "fio's engine finds it by discovery"
    engine --discovery=1 --bs=4k --size=2M --iodepth=8 --queues=2
else
    echo "- libpollux_fio.so is not built: no run of fio's engine"
fi

step "a namespace over RDMA is a device of another target, which a file describes"
cat >/tmp/front.toml <<FILE
[reactors]
mode = "interrupt"
[buffers]
small = 1024
large = 64
[rdma]
io_size = "1 MiB"
shared_receives = 128
[metrics]
address = "127.0.0.1:9101"
[discovery]
rdma_listeners = ["$address:$((FRONT_PORT + 1))"]
[[controllers]]
name = "back"
transport = "rdma"
address = "$address:$RDMA_PORT"
subnqn = "$NQN"
[[subsystems]]
nqn = "$FRONT_NQN"
allow_any_host = true
namespaces = [{ device = "backn1" }]
listeners = [{ transport = "rdma", address = "$address:$FRONT_PORT" }]
FILE
POLLUX_LOG=debug /share/bin/pollux-dataplane --config /tmp/front.toml --rpc-socket "$FRONT_SOCKET" >/tmp/front.log 2>&1 &
FRONT_PID=$!
trap 'tail -n 15 /tmp/target.log /tmp/front.log' EXIT
front_rpc() { "$POLLUX" rpc --socket "$FRONT_SOCKET" "$@"; }
eventually 20 front_rpc rpc_get_methods
front_rpc bdev_nvme_get_controllers '{}' | grep -q RDMA
front_rpc save_config '{}' >/tmp/saved
grep -q '"trtype": *"RDMA"' /tmp/saved
nvme discover -t rdma -a "$address" -s $((FRONT_PORT + 1)) | grep -q "$FRONT_NQN"
perf "$FRONT_PORT" "$FRONT_NQN" --size 4k --depth 16 --workload randrw
nvme connect -t rdma -a "$address" -s "$FRONT_PORT" -n "$FRONT_NQN" --nr-io-queues=1
front_device() { [ -b "/dev/$(basename "$(ls -d "$(subsystem_folder "$FRONT_NQN")"/nvme*n1)")" ]; }
eventually 20 front_device
front="/dev/$(basename "$(ls -d "$(subsystem_folder "$FRONT_NQN")"/nvme*n1)")"
for size in 4k 1024k; do fio_verify "$front" --bs="$size" --size=12M --iodepth=4; done
blkdiscard "$front"

step "more commands come than there are receives, which all connections share"
front_shared() {
    exec 3<>/dev/tcp/127.0.0.1/9101
    printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
    sed -n 's/^pollux_rdma_shared_total{.*} //p' <&3
    exec 3>&-
}
shared=$(front_shared)
[ "$shared" -gt 0 ] || fail "no connection shares its receives"
for part in 0 32 64; do
    "$POLLUX" perf -t rdma -a "$address" -s "$FRONT_PORT" -n "$FRONT_NQN" --verify --io-count 3000 --size 4k --depth 96 \
        --workload randrw --offset "${part}M" --length 16M >"/tmp/perf.$part" 2>&1 &
    RUNS[part]=$!
done
for part in 0 32 64; do wait "${RUNS[part]}" || { cat "/tmp/perf.$part" && fail "perf beside others"; }; done
[ "$(front_shared)" -gt "$shared" ] || [ "$RDMA_KIND" = siw ] || fail "no further connection shares its receives"
grep -q 'shared_receives=128' /tmp/front.log

step "the target behind it is killed and comes back: I/O waits for it, or says so"
front_lost() { front_rpc bdev_nvme_get_controllers '{}' | grep -q resetting; }
front_up() { front_rpc bdev_nvme_get_controllers '{}' | grep -q enabled; }
kill -KILL "$INSIDE_PID"
wait "$INSIDE_PID" 2>/dev/null || true
eventually 20 front_lost
if [ "$RDMA_KIND" = siw ]; then
    # Something accepts in its place and says nothing. Giving such a connection up takes an iWARP device seconds, which no
    # reactor waits.
    mkfifo /tmp/silence
    sleep 300 >/tmp/silence &
    SILENCE=$!
    timeout 12 nc -l -p "$RDMA_PORT" </tmp/silence >/dev/null || true
    kill "$SILENCE"
    if grep -E 'stalled the reactor.*took=[0-9.]+s' /tmp/front.log; then fail "a reactor waited for a peer"; fi
fi
inside_start
inside_subsystem /tmp/device.img
inside_listen RDMA "$address" "$RDMA_PORT"
eventually 30 front_up
fio_verify "$front" --bs=16k --size=8M --iodepth=4
nvme disconnect -n "$FRONT_NQN"
kill -TERM "$FRONT_PID"
wait "$FRONT_PID"

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
