#!/usr/bin/env bash
# ext4 and XFS on a volume whose device logs every write: wherever a power cut stops it, the store is sound and what was fsynced is there.
# lab: nics=1 inside=yes seconds=170 memory=1024M
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "a store that can be checked"

# The store's device; volumes are thin, and XFS takes no less than 300 MiB.
MIB=224
BYTES=$((MIB << 20))
VOLUME_MIB=320
ROUNDS=4

# The device under the store: what is written to it is written to /share/log as well, in the order in which it is durable.
logged_start() {
    truncate -s "$MIB"M /tmp/device
    truncate -s 1G /share/log
    losetup /dev/loop0 /tmp/device
    losetup /dev/loop1 /share/log
    logged=$(mapped logged "0 $((BYTES / 512)) log-writes /dev/loop0 /dev/loop1")
}
logged_end() {
    dmsetup remove --noudevsync logged
    losetup -d /dev/loop0
    losetup -d /dev/loop1
    sync
    rm /tmp/device
}

serve() {
    inside_start
    inside_rpc nvmf_create_transport '{"trtype":"TCP"}'
    inside_rpc bdev_uring_create "{\"name\":\"d0\",\"filename\":\"$logged\",\"block_size\":4096}"
    inside_rpc bdev_lvol_create_lvstore '{"bdev_name":"d0","lvs_name":"lab"}'
    inside_rpc bdev_lvol_create "{\"lvs_name\":\"lab\",\"lvol_name\":\"v\",\"size_in_mib\":$VOLUME_MIB,\"thin_provision\":true}"
    inside_rpc nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"serial_number\":\"LAB0001\",\"allow_any_host\":true}"
    inside_rpc nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"lab/v\",\"nsid\":1,\"uuid\":\"$FIRST_UUID\"}}"
    inside_listen TCP 127.0.0.1 "$PORT"
}
serve_end() {
    nvme disconnect -n "$NQN"
    kill -TERM "$INSIDE_PID"
    wait "$INSIDE_PID"
}

make() {
    case $1 in
        ext4) mkfs.ext4 -q -F -E lazy_itable_init=0 "$2" ;;
        xfs) mkfs.xfs -q -f "$2" ;;
    esac
}
clean() {
    case $1 in
        ext4) fsck.ext4 -fn "$2" >/tmp/fsck 2>&1 || { cat /tmp/fsck && return 1; } ;;
        xfs) xfs_repair -n "$2" >/tmp/fsck 2>&1 || { cat /tmp/fsck && return 1; } ;;
    esac
}

# A new file, one written in its middle, one that grows, one that goes; all of it fsynced, the folder too. Then a mark.
change() {
    local round=$1
    head -c $((round * 37000 + 5000)) /dev/urandom >"new.$round"
    head -c 150000 /dev/urandom | dd of=middle bs=4096 seek=$((round * 7)) conv=notrunc status=none
    head -c 30001 /dev/urandom >>grows
    [ "$round" -le 2 ] || rm "new.$((round - 2))"
    # The file of the round before was left to the kernel.
    rm -f later
    sync -- * .
    find . -type f -exec sha256sum {} + >"/share/$2-$round.sums"
    dmsetup message logged 0 mark "$2-$round"
    head -c 100000 /dev/urandom >later
}

record() {
    local kind=$1 device round
    logged_start
    serve >/dev/null
    dmsetup message logged 0 mark made
    connect 127.0.0.1
    device=$(device_ready)
    make "$kind" "$device"
    mount -t "$kind" "$device" /mnt
    cd /mnt
    for ((round = 1; round <= ROUNDS; round++)); do
        change "$round" "$kind"
        [ "$round" -ne 2 ] || inside_rpc bdev_lvol_snapshot '{"lvol_name":"lab/v","snapshot_name":"s"}' >/dev/null
    done
    cd /
    umount /mnt
    serve_end
    logged_end
}

# What the device held at a mark, served to this host by the target outside.
holds() {
    local kind=$1 mark=$2 device
    rpc bdev_uring_create "{\"name\":\"r0\",\"filename\":\"$(host replay-to "$BYTES" "$mark" | tail -n 1)\",\"block_size\":4096}" >/dev/null
    namespace "$NQN" lab/v 1 "$FIRST_UUID" >/dev/null
    device=$(device_ready)
    mount -t "$kind" "$device" /mnt
    (cd /mnt && sha256sum -c --quiet "/share/$mark.sums")
    umount /mnt
    clean "$kind" "$device"
    rpc nvmf_subsystem_remove_ns "{\"nqn\":\"$NQN\",\"nsid\":1}" >/dev/null
    eventually 20 device_absent 1
    rpc bdev_uring_delete '{"name":"r0"}' >/dev/null
}

transport >/dev/null
for kind in ext4 xfs; do
    step "$kind: recorded"
    record "$kind"
    step "$kind: the store is sound wherever the log stops"
    host replay-check "$BYTES" | tail -n 1
    step "$kind: at each mark it holds what was fsynced before"
    subsystem "$NQN" >/dev/null
    listener "$NQN" 10.77.0.1 >/dev/null
    connect 10.77.0.1
    for ((round = 1; round <= ROUNDS; round++)); do holds "$kind" "$kind-$round"; done
    nvme disconnect -n "$NQN"
    rpc nvmf_delete_subsystem "{\"nqn\":\"$NQN\"}" >/dev/null
done
no_io_errors
