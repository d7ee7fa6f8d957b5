#!/usr/bin/env bash
# Reservations between two hosts: every type, registrations, acquire, preempt, release, clear, and who may write.
# lab: nics=1 seconds=120 kernel=nvme_core.multipath=N
# shellcheck source=../inside.sh
. /share/inside.sh

# Both hosts are this guest; without native multipath each connection is a device of its own.
HOST_A=11111111-2222-4333-8444-555555555555
HOST_B=66666666-7777-4888-9999-aaaaaaaaaaaa
host_name() { echo "nqn.2014-08.org.nvmexpress:uuid:$1"; }
# Straight to the kernel: nvme-cli takes a second host for a second connection of the first.
connect_as() {
    echo "transport=tcp,traddr=10.77.0.1,trsvcid=$PORT,nqn=$NQN,hostnqn=$(host_name "$1"),hostid=$1,nr_io_queues=1,duplicate_connect" \
        >/dev/nvme-fabrics
}
device_as() {
    local controller
    controller=$(grep -lx "$(host_name "$1")" /sys/class/nvme/nvme*/hostnqn) || return 1
    for block in "${controller%/hostnqn}"/nvme*n1; do [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return 0; done
    return 1
}
report() { nvme resv-report "$A" --eds -o json; }
holders() { report | jq '[.regctlext[] | select(.rcsts % 2 == 1)] | length'; }
registered() { report | jq .regctl; }
register() { nvme resv-register "$1" -n 1 --rrega=0 --nrkey="$2" >/dev/null; }
unregister() { nvme resv-register "$1" -n 1 --rrega=1 --crkey="$2" >/dev/null; }
acquire() { nvme resv-acquire "$1" -n 1 --racqa=0 --crkey="$2" --rtype="$3" >/dev/null; }
preempt() { nvme resv-acquire "$1" -n 1 --racqa=1 --crkey="$2" --prkey="$3" --rtype="$4" >/dev/null; }
release() { nvme resv-release "$1" -n 1 --rrela=0 --crkey="$2" --rtype="$3" >/dev/null; }
clear_all() { nvme resv-release "$1" -n 1 --rrela=1 --crkey="$2" >/dev/null; }
write_block() { nvme write "$1" -s 0 -c 0 -z 4096 -d /tmp/block >/tmp/out 2>&1; }
read_block() { nvme read "$1" -s 0 -c 0 -z 4096 -d /tmp/back >/tmp/out 2>&1; }
# conflicts COMMAND…: fails, and with Reservation Conflict.
conflicts() {
    if "$@" 2>/tmp/out; then fail "no conflict: $*"; fi
    grep -qiE 'RESERVATION_CONFLICT|Reservation Conflict' /tmp/out || { cat /tmp/out && fail "another status: $*"; }
}

transport
memory_device m0 16
simple_target m0 10.77.0.1
connect_as $HOST_A
connect_as $HOST_B
eventually 20 device_as $HOST_A
eventually 20 device_as $HOST_B
A=$(device_as $HOST_A) B=$(device_as $HOST_B)
head -c 4096 /dev/urandom >/tmp/block

step "registrations"
expect_equal 0 "$(registered)" registrants
register "$A" 0xa
register "$B" 0xb
expect_equal 2 "$(registered)" registrants
conflicts unregister "$B" 0xbad

# Types: 1 write exclusive, 2 exclusive access, 3/4 registrants only, 5/6 all registrants.
for type in 1 2 3 4 5 6; do
    step "type $type"
    acquire "$A" 0xa $type
    write_block "$A"
    case $type in
        1) conflicts write_block "$B" && read_block "$B" ;;
        2) conflicts write_block "$B" && conflicts read_block "$B" ;;
        *) write_block "$B" && read_block "$B" ;;
    esac
    unregister "$B" 0xb
    conflicts write_block "$B"
    case $type in 2 | 4 | 6) conflicts read_block "$B" ;; *) read_block "$B" ;; esac
    register "$B" 0xb
    case $type in
        # Every registrant holds these; the stand-in reports one.
        5 | 6) [ "$LAB_TARGET" = spdk ] || expect_equal 2 "$(holders)" holders ;;
        *) expect_equal 1 "$(holders)" holders && conflicts acquire "$B" 0xb $type ;;
    esac
    release "$A" 0xa $type
    write_block "$B"
done

step "preempt takes the reservation and the registration"
acquire "$A" 0xa 1
preempt "$B" 0xb 0xa 1
expect_equal 1 "$(registered)" registrants
write_block "$B"
conflicts write_block "$A"

step "clear ends everything"
clear_all "$B" 0xb
expect_equal 0 "$(registered)" registrants
write_block "$A"
nvme disconnect -n "$NQN"
