#!/usr/bin/env bash
# NVMe/RDMA over soft iWARP between two guests: what is read while much is under way is what was written, from 4 KiB to 128 KiB.
# lab: inside=yes peer=yes seconds=240 memory=640M
# shellcheck source=../inside.sh
. /share/inside.sh

# Soft iWARP between two guests loses the first command of a connection, now and then or often, with Linux' own target too: it is
# given up soon, and tried again.
CONNECTS_MAX=20
CONNECT_SECONDS=3
# Before writes were signaled, 3 to 15 of 60 rounds of 128 KiB were wrong.
ROUNDS_MAX=60

rdma_device siw >/dev/null
there=$(peer rdma_device siw)
trap 'peer tail -n 15 /tmp/target.log' EXIT
peer truncate -s 96M /tmp/device.img
peer inside_start
peer inside_subsystem /tmp/device.img
peer inside_listen RDMA "$there" "$RDMA_PORT"

step "the kernel's host here, our target there"
admin_seconds=$(cat /sys/module/nvme_core/parameters/admin_timeout)
echo $CONNECT_SECONDS >/sys/module/nvme_core/parameters/admin_timeout
connects=1
until connect_rdma "$there" --keep-alive-tmo=5; do
    [ $connects -lt $CONNECTS_MAX ] || { echo "SKIPPED: soft iWARP lost the first command of $connects connections" && exit 77; }
    connects=$((connects + 1))
done
echo "$admin_seconds" >/sys/module/nvme_core/parameters/admin_timeout
echo "TABLE: connected at try $connects"
device=$(device_ready)

# rounds SIZE SECONDS: rounds of writes that are read back at depth 8, for so long; at most ROUNDS_MAX.
rounds() {
    local end=$((SECONDS + $2)) count=0
    while [ $count -lt $ROUNDS_MAX ] && [ $SECONDS -lt $end ]; do
        timeout 60 fio --name=round --filename="$device" --ioengine=io_uring --direct=1 --rw=randwrite --verify=crc32c \
            --verify_fatal=1 --randrepeat=0 --bs="$1" --size=8M --iodepth=8 >/tmp/fio.out 2>&1 ||
            { cat /tmp/fio.out && fail "round $count of $1 did not verify"; }
        count=$((count + 1))
    done
    echo "TABLE: $1: $count rounds verified"
}
rounds 128k 40
rounds 16k 10
rounds 4k 10
no_io_errors
nvme disconnect -n "$NQN"

step "our target there ends in order"
peer kill -TERM "$(peer echo_inside_pid)"
peer inside_wait
