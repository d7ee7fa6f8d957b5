#!/usr/bin/env bash
# A device that refuses writes, then one that drops them: errors are told as such, no wrong data is read, and the store is sound after.
# lab: nics=0 inside=yes seconds=120 memory=768M
# shellcheck source=../inside.sh
. /share/inside.sh
beyond_spdk "a store that checks what it reads"

MIB=192
KEPT_MIB=12
SECTORS=$((MIB * 2048))
trap 'tail -n 15 /tmp/target.log' EXIT

# The device under the store from now on: healthy, or broken (error_writes, drop_writes).
becomes() {
    local table="0 $SECTORS linear /dev/loop0 0"
    # Down for longer than anything here takes.
    [ "$1" = healthy ] || table="0 $SECTORS flakey /dev/loop0 0 0 3600 1 $1"
    mapped_becomes flaky "$table"
}

serve() {
    inside_start
    inside_rpc nvmf_create_transport '{"trtype":"TCP"}'
    inside_rpc bdev_uring_create "{\"name\":\"d0\",\"filename\":\"$flaky\",\"block_size\":4096}"
    inside_rpc bdev_lvol_open_lvstore '{"bdev_name":"d0","lvs_name":"lab","create":true}'
    inside_rpc bdev_lvol_get_lvols '{"lvs_name":"lab"}' | grep -q '"lab/v"' ||
        inside_rpc bdev_lvol_create '{"lvs_name":"lab","lvol_name":"v","size_in_mib":64,"thin_provision":true}'
    inside_rpc nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"serial_number\":\"LAB0001\",\"allow_any_host\":true}"
    inside_rpc nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"lab/v\",\"nsid\":1,\"uuid\":\"$FIRST_UUID\"}}"
    inside_listen TCP 127.0.0.1 "$PORT"
}
# The target dies, the device is whole again, the store is checked and opened.
return_healthy() {
    kill -KILL "$INSIDE_PID"
    wait "$INSIDE_PID" 2>/dev/null || true
    becomes healthy
    /share/bin/pollux store check --data "$flaky"
    serve >/dev/null
    eventually 30 controller_is 127.0.0.1 live
}

kept() { dd if="$device" bs=1M count="$KEPT_MIB" iflag=direct status=none | sha256sum; }
keeps() { expect_equal "$before" "$(kept)" "what was flushed before"; }
told() {
    dmesg -c >/tmp/dmesg
    grep -q "$1" /tmp/dmesg || fail "no I/O ended with $1"
}

# The kernel tells ten errors in five seconds, of all kinds: what it kept to itself is read again.
read_tells() {
    dd if="$device" of=/dev/null bs=4k skip=4096 count=4096 iflag=direct conv=noerror 2>/dev/null
    (told "$1") >/dev/null
}

# fio_broken OPTION…: a load that goes on after errors. Errors there are, and nothing but errors.
fio_broken() {
    fio --name=broken --filename="$device" --offset=16M --size=16M --direct=1 --ioengine=libaio --rw=randwrite --bs=4k --iodepth=8 \
        --verify=crc32c --verify_fatal=1 --continue_on_error=io --ignore_error=EIO:61,EIO:61 --randrepeat=0 --output-format=json --output=/tmp/fio.json "$@" \
        >/tmp/fio.out 2>&1 || true
    if grep 'verify:' /tmp/fio.out /tmp/fio.json; then fail "wrong data was read"; fi
    [ "$(jq '.jobs[0].total_err' /tmp/fio.json)" -gt 0 ] || { cat /tmp/fio.out /tmp/fio.json && fail "no error was told"; }
}
fio_healthy() { fio_verify "$device" --bssplit=4k/60:64k/40 --offset=16M --size=24M --io_size=12M --iodepth=8; }

truncate -s "$MIB"M /tmp/device
losetup /dev/loop0 /tmp/device
flaky=$(mapped flaky "0 $SECTORS linear /dev/loop0 0")
serve >/dev/null
connect 127.0.0.1 --reconnect-delay=1 --ctrl-loss-tmo=60
device=$(device_ready)
dd if=/dev/urandom of="$device" bs=1M count="$KEPT_MIB" oflag=direct conv=fsync status=none
before=$(kept)
fio_healthy
no_io_errors

step "every write is refused"
dmesg -c >/dev/null
becomes error_writes
fio_broken
told 'Write Fault (sct 0x2 / sc 0x80)'
keeps
step "whole again"
return_healthy
keeps
fio_healthy

step "every write is dropped"
dmesg -c >/dev/null
becomes drop_writes
fio_broken
eventually 15 read_tells 'Unrecovered Read Error (sct 0x2 / sc 0x81)'
step "whole again"
return_healthy
keeps
fio_healthy
nvme disconnect -n "$NQN"
kill -TERM "$INSIDE_PID"
wait "$INSIDE_PID"
/share/bin/pollux store check --data "$flaky"
