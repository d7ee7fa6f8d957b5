#!/usr/bin/env bash
# A replicated volume whose head and replicas are all killed with SIGKILL under verified load: what the host was told is there.
# lab: nics=1 seconds=240
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "replicated volumes"

VOLUME=7f3c1d7e-98f8-4a54-9f0b-8f5f4d2b6a10
epoch=0

# Three copies in files that outlive the target; every activation has an epoch of its own.
configure() {
    local copy
    transport
    for copy in 0 1 2; do
        file_device "f$copy" 160M
        rpc replica_create "{\"name\":\"r$copy\",\"bdev_name\":\"f$copy\",\"volume\":\"$VOLUME\",\
\"size_bytes\":134217728,\"zeroed\":true}"
    done
    rpc volume_create "{\"name\":\"v\",\"uuid\":\"$VOLUME\",\"replicas\":[\"r0\",\"r1\",\"r2\"],\"min_in_sync\":2}"
    epoch=$((epoch + 1))
    rpc volume_activate "{\"name\":\"v\",\"epoch\":$epoch,\"in_sync\":[\"r0\",\"r1\",\"r2\"]}"
    simple_target v 10.77.0.1
}
is_equal() { rpc volume_get '{"name":"v"}' | tr -d ' \n' | grep -vq '"regions_stale":[1-9]'; }

configure
connect 10.77.0.1 --reconnect-delay=1 --ctrl-loss-tmo=120 --keep-alive-tmo=5
device=$(device_ready)
expect_equal "write back" "$(cat "/sys/block/${device##*/}/queue/write_cache")" "write cache"
load_start "$device"
for round in 1 2; do
    load_moves 500
    step "kill number $round: copies may differ, and are made equal"
    host kill
    eventually 30 controller_is 10.77.0.1 connecting
    host start
    configure
    eventually 60 controller_is 10.77.0.1 live
    eventually 60 is_equal
done
load_moves 500
step "the load ends verified"
load_end
rpc volume_get '{"name":"v"}'
rpc volume_deactivate '{"name":"v"}'
nvme disconnect -n "$NQN"
no_io_errors
