#!/usr/bin/env bash
# ext4 and XFS: made, mounted, filled, emptied with discards, unmounted and checked, with the data there after a return.
# lab: nics=1 seconds=180
# shellcheck source=../inside.sh
. /share/inside.sh

transport
file_device f0 512M
simple_target f0 10.77.0.1
connect 10.77.0.1
device=$(device_ready)

# Real files of a real tree.
fill() { mkdir "$1/tree" && cp -r /usr/sbin /usr/lib /bin "$1/tree/" && sync; }
sums() { (cd "$1" && find tree -type f -exec sha256sum {} + | sort); }
clean() {
    case $1 in
        ext4) fsck.ext4 -fn "$device" >/tmp/fsck 2>&1 || { cat /tmp/fsck && return 1; } ;;
        xfs) xfs_repair -n "$device" >/tmp/fsck 2>&1 || { cat /tmp/fsck && return 1; } ;;
    esac
}

for kind in ext4 xfs; do
    step "$kind: make, fill"
    case $kind in ext4) mkfs.ext4 -q -F "$device" ;; xfs) mkfs.xfs -q -f "$device" ;; esac
    mount -t "$kind" "$device" /mnt
    fill /mnt
    sums /mnt >/tmp/before
    umount /mnt
    step "$kind: check, come back over a new connection, compare"
    clean "$kind"
    nvme disconnect -n "$NQN"
    connect 10.77.0.1
    device=$(device_ready)
    mount -t "$kind" -o discard "$device" /mnt
    sums /mnt >/tmp/after
    cmp /tmp/before /tmp/after
    step "$kind: delete with discards, check"
    rm -r /mnt/tree
    sync
    [ "$LAB_TARGET" = spdk ] || busybox fstrim /mnt
    umount /mnt
    clean "$kind"
done
nvme disconnect -n "$NQN"
no_io_errors
