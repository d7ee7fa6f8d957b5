#!/usr/bin/env bash
# ext4 on a volume: snapshots of it clean and in use, a clone of each mounted and compared, and a rollback.
# lab: nics=1 seconds=240
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "snapshots of a volume in use, and rollback"

transport
file_device f0 1G
rpc bdev_lvol_create_lvstore '{"bdev_name":"f0","lvs_name":"lab"}'
rpc bdev_lvol_create '{"lvs_name":"lab","lvol_name":"v","size_in_mib":256,"thin_provision":true}'
simple_target lab/v 10.77.0.1
connect 10.77.0.1
device=$(device_ready)

sums() { (cd "$1" && find tree -type f -exec sha256sum {} + | sort); }
clean() { fsck.ext4 -fn "$1" >/tmp/fsck 2>&1 || { cat /tmp/fsck && return 1; }; }
# attach VOLUME NSID: as a namespace, whose device is printed.
attach() { namespace "$NQN" "$1" "$2" >/dev/null && device_ready "$2"; }
detach() {
    rpc nvmf_subsystem_remove_ns "{\"nqn\":\"$NQN\",\"nsid\":$1}" >/dev/null
    eventually 20 device_absent "$1"
}

step "what Identify says of a volume: atomic writes, also over power failing, zeroes where nothing was written, a write cache"
nvme id-ns "$device" -o json >/tmp/id-ns
# is KEY WANT: a number in /tmp/id-ns.
is() { grep -qE "\"$1\" *: *$2\b" /tmp/id-ns || { cat /tmp/id-ns && fail "$1 is not $2"; }; }
# Namespace atomic sizes are given (bit 1 of NSFEAT); 256 blocks for NAWUN and one for NAWUPF, both zero-based.
[ $(($(sed -n 's/.*"nsfeat" *: *\([0-9]*\).*/\1/p' /tmp/id-ns) & 2)) -eq 2 ] || { cat /tmp/id-ns && fail "NSFEAT"; }
is nawun 255
is nawupf 0
# Deallocated blocks read as zeroes (1), and Write Zeroes may deallocate (8).
is dlfeat 9
[ "$(blockdev --getss "$device")" = 4096 ]
[ "$(cat "/sys/block/$(basename "$device")/queue/write_cache")" = "write back" ]
cmp -n 1048576 "$device" /dev/zero

step "a tree on the volume, and a snapshot of it at rest"
mkfs.ext4 -q -F "$device"
mount "$device" /mnt
mkdir /mnt/tree && cp -r /usr/sbin /bin /mnt/tree/
sums /mnt >/tmp/first
umount /mnt
rpc bdev_lvol_snapshot '{"lvol_name":"lab/v","snapshot_name":"rest"}'

step "the tree changes; a snapshot of the mounted filesystem, while it is written to"
mount "$device" /mnt
rm -r /mnt/tree/bin
cp -r /usr/lib /mnt/tree/
sync
sums /mnt >/tmp/second
(while [ ! -e /tmp/enough ]; do cp -r /usr/sbin /mnt/noise && rm -r /mnt/noise; done) &
noise=$!
eventually 20 test -d /mnt/noise
rpc bdev_lvol_snapshot '{"lvol_name":"lab/v","snapshot_name":"live"}'
touch /tmp/enough
wait "$noise"

step "the snapshot at rest, read-only as it is"
snapshot=$(attach lab/rest 2)
mkdir -p /tmp/a
mount -t ext4 -o ro,noload "$snapshot" /tmp/a
sums /tmp/a | cmp - /tmp/first
umount /tmp/a
expect_failure dd if=/dev/zero of="$snapshot" bs=4096 count=1 oflag=direct 2>/dev/null
detach 2

step "a clone of the live one: its journal replays, and what was synced is there"
rpc bdev_lvol_clone '{"snapshot_name":"lab/live","clone_name":"copy"}'
clone=$(attach lab/copy 3)
mount -t ext4 "$clone" /tmp/a
sums /tmp/a | cmp - /tmp/second
rm -r /tmp/a/tree
sync
umount /tmp/a
clean "$clone"
sums /mnt | cmp - /tmp/second
umount /mnt
clean "$device"
detach 3

step "back to rest, with the clone deleted and the snapshot it came from after it"
rpc bdev_lvol_rollback '{"lvol_name":"lab/v","snapshot_name":"lab/rest"}'
rpc bdev_lvol_delete '{"name":"lab/copy"}'
rpc bdev_lvol_delete '{"name":"lab/live"}'
blockdev --flushbufs "$device"
clean "$device"
mount "$device" /mnt
sums /mnt | cmp - /tmp/first
umount /mnt
nvme disconnect -n "$NQN"
# The refused write to the snapshot.
if dmesg | grep -E 'critical .* error|Buffer I/O|hung_task|blocked for more than' | grep -v "dev ${snapshot##*/}"; then
    fail "the guest's kernel saw errors"
fi
