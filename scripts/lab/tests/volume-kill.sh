#!/usr/bin/env bash
# A volume whose target is killed with SIGKILL under verified load: what was written through, or forced, is there.
# lab: nics=1 seconds=240
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "thin volumes in a file that outlives the target"

# configure DEVICE: the store opens by itself, with its device.
configure() {
    transport
    file_device f0 512M
    rpc bdev_lvol_open_lvstore "{\"bdev_name\":\"f0\",\"lvs_name\":\"lab\",\"create\":true,\"write_through\":$1}"
    rpc bdev_lvol_get_lvols '{"lvs_name":"lab"}' | grep -q '"lab/v"' ||
        rpc bdev_lvol_create '{"lvs_name":"lab","lvol_name":"v","size_in_mib":128,"thin_provision":true}'
    simple_target lab/v 10.77.0.1
}
return_after_kill() {
    host kill
    eventually 30 controller_is 10.77.0.1 connecting
    host start
    configure "$1"
    eventually 60 controller_is 10.77.0.1 live
}

configure true
connect 10.77.0.1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
device=$(device_ready)
expect_equal 4096 "$(cat "/sys/block/${device##*/}/queue/logical_block_size")" "block size"
expect_equal "write through" "$(cat "/sys/block/${device##*/}/queue/write_cache")" "write cache"
load_start "$device"
for round in 1 2 3; do
    load_moves 1000
    step "written through: kill number $round"
    return_after_kill true
done
step "the load ends verified"
load_end
nvme disconnect -n "$NQN"

step "a volatile write cache, and writes that are forced"
host stop && host start
configure false
connect 10.77.0.1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
device=$(device_ready)
expect_equal "write back" "$(cat "/sys/block/${device##*/}/queue/write_cache")" "write cache"
load_start "$device" --sync=dsync
for round in 4 5; do
    load_moves 1000
    step "forced: kill number $round"
    return_after_kill false
done
load_end
step "what nobody forced is verified as well, when nobody dies"
fio_verify "$device" --bssplit=4k/40:64k/30:512k/20:1M/10 --size=64M --io_size=48M --iodepth=16 --fsync=64
blkdiscard "$device"
cmp -n 134217728 "$device" /dev/zero
nvme disconnect -n "$NQN"
no_io_errors
