#!/usr/bin/env bash
# nvme-cli reads every Identify page, log page, feature and property, and sends every command the target claims.
# lab: nics=1 seconds=90
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 32
simple_target m0 10.77.0.1
connect 10.77.0.1
device=$(device_ready)
controller=/dev/$(basename "$(controller_of 10.77.0.1)")

json() { "$@" -o json; }
# reads WHAT COMMAND…: must succeed.
reads() {
    local what=$1
    shift
    "$@" >/tmp/out 2>&1 || { cat /tmp/out && fail "$what: $*"; }
}
# Either the page is there, or the target says so with Invalid Field or Invalid Opcode; nothing else will do.
reads_or_refuses() {
    local what=$1
    shift
    "$@" >/tmp/out 2>&1 && return 0
    grep -qiE 'INVALID_FIELD|Invalid Field|INVALID_OPCODE|Invalid Command Opcode|INVALID_LOG_PAGE|Invalid Log Page' /tmp/out ||
        { cat /tmp/out && fail "$what neither read nor refused: $*"; }
    echo "  $what: refused"
}
# What our target promises; the stand-in may refuse it.
ours_reads() { if [ "$LAB_TARGET" = spdk ]; then reads_or_refuses "$@"; else reads "$@"; fi; }

step "Identify"
reads id-ctrl nvme id-ctrl "$controller" -H
reads id-ns nvme id-ns "$device" -H
reads list-ns nvme list-ns "$controller"
reads_or_refuses "allocated list-ns" nvme list-ns "$controller" --all
reads ns-descs nvme ns-descs "$device"
ours_reads list-ctrl nvme list-ctrl "$controller"
ours_reads nvm-id-ctrl nvme nvm-id-ctrl "$controller"
ours_reads nvm-id-ns nvme nvm-id-ns "$device"
ours_reads cmdset-ind-id-ns nvme cmdset-ind-id-ns "$device" -n 1
ours_reads id-iocs nvme id-iocs "$controller"
reads_or_refuses id-nvmset nvme id-nvmset "$controller"
reads_or_refuses id-uuid nvme id-uuid "$controller"
reads_or_refuses list-endgrp nvme list-endgrp "$controller"
reads_or_refuses id-domain nvme id-domain "$controller"
expect_equal LAB0001 "$(json nvme id-ctrl "$controller" | jq -r .sn | xargs)" "serial number"
expect_equal "$NQN" "$(json nvme id-ctrl "$controller" | jq -r .subnqn)" subnqn
expect_equal $((32 * 256)) "$(json nvme id-ns "$device" | jq .nsze)" "blocks"
# A device in memory: every write is atomic; when power fails, a block is.
[ "$LAB_TARGET" = spdk ] ||
    expect_equal "65535 0" "$(json nvme id-ns "$device" | jq -r '"\(.nawun) \(.nawupf)"')" "atomic write units"

step "log pages"
reads error-log nvme error-log "$controller"
reads smart-log nvme smart-log "$controller"
reads fw-log nvme fw-log "$controller"
reads changed-ns-list-log nvme changed-ns-list-log "$controller"
reads effects-log nvme effects-log "$controller"
[ "$LAB_TARGET" = spdk ] || reads ana-log nvme ana-log "$controller"
reads_or_refuses persistent-event-log nvme persistent-event-log "$controller" --action=1
ours_reads supported-log-pages nvme supported-log-pages "$controller"
ours_reads resv-notif-log nvme resv-notif-log "$controller"
reads_or_refuses fid-support-effects-log nvme fid-support-effects-log "$controller"
reads_or_refuses endurance-log nvme endurance-log "$controller" -g 1
reads_or_refuses self-test-log nvme self-test-log "$controller"
reads_or_refuses sanitize-log nvme sanitize-log "$controller"
reads_or_refuses "a reserved log page" nvme get-log "$controller" --log-id=0x3f --log-len=512

step "features"
for feature in $(seq 1 132); do
    reads_or_refuses "feature $feature" nvme get-feature "$controller" -n 1 -f "$feature"
done
for selection in 1 2 3; do
    reads_or_refuses "selection $selection" nvme get-feature "$controller" -f 7 -s "$selection"
done
for feature in 7 11 15; do
    reads "feature $feature" nvme get-feature "$controller" -f "$feature" -H
done

step "properties"
[ "$LAB_TARGET" = spdk ] || reads show-regs nvme show-regs "$controller" -H
for offset in 0x0 0x8 0x14 0x1c; do
    reads "property $offset" nvme get-property "$controller" --offset="$offset"
done

step "commands"
head -c 8192 /dev/urandom >/tmp/data
reads write nvme write "$device" -s 16 -c 1 -z 8192 -d /tmp/data
reads read nvme read "$device" -s 16 -c 1 -z 8192 -d /tmp/back
cmp /tmp/data /tmp/back
reads "write with FUA" nvme write "$device" -s 16 -c 1 -z 8192 -d /tmp/data --force-unit-access
reads compare nvme compare "$device" -s 16 -c 1 -z 8192 -d /tmp/data
head -c 8192 /dev/zero >/tmp/zero
expect_failure nvme compare "$device" -s 16 -c 1 -z 8192 -d /tmp/zero 2>/tmp/out
[ "$LAB_TARGET" = spdk ] || grep -qiE 'COMPARE_FAILED|Compare Failure' /tmp/out || { cat /tmp/out && fail "the wrong status of a failed compare"; }
reads flush nvme flush "$device" -n 1
[ "$LAB_TARGET" = spdk ] || reads verify nvme verify "$device" -s 16 -c 1
reads write-zeroes nvme write-zeroes "$device" -s 16 -c 1
reads "read of zeroes" nvme read "$device" -s 16 -c 1 -z 8192 -d /tmp/back
cmp /tmp/zero /tmp/back
reads dsm nvme dsm "$device" -n 1 --ad --slbs=32,64 --blocks=8,8
blkdiscard -o 0 -l 1048576 "$device"
blkdiscard -z -o 0 -l 1048576 "$device"
expect_failure nvme read "$device" -s $((32 * 256)) -c 0 -z 4096 -d /tmp/back 2>/tmp/out
grep -qiE 'LBA_RANGE|LBA Out of Range' /tmp/out || { cat /tmp/out && fail "the wrong status of a read past the end"; }
expect_failure nvme io-passthru "$device" --opcode=0x7b -n 1 2>/tmp/out
grep -qiE 'INVALID_OPCODE|Invalid Command Opcode' /tmp/out || { cat /tmp/out && fail "the wrong status of an unknown command"; }

step "reset"
nvme reset "$controller"
eventually 10 controller_is 10.77.0.1 live
nvme disconnect -n "$NQN"
