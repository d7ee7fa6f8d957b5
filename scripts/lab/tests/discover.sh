#!/usr/bin/env bash
# Discovery: the records a host sees, allow-lists, referrals, and the event a persistent controller gets on a change.
# lab: nics=1 seconds=60
# shellcheck source=../inside.sh
. /share/inside.sh

DISCOVERY=nqn.2014-08.org.nvmexpress.discovery
records() { nvme discover -t tcp -a 10.77.0.1 -s "$PORT" -o json "$@"; }
names() { records | jq -r '.records[] | select(.subtype == "nvme subsystem") | .subnqn' | sort -u | xargs; }
discovery_controller() { grep -lx "$DISCOVERY" /sys/class/nvme/nvme*/subsysnqn; }

transport
memory_device m0 16
memory_device m1 16
simple_target m0 10.77.0.1
[ "$LAB_TARGET" = spdk ] || rpc nvmf_subsystem_add_listener "{\"nqn\":\"$DISCOVERY\",\"listen_address\":$(address_json 10.77.0.1)}"

step "one record for one listener of one subsystem"
expect_equal "$NQN" "$(names)" names
record=$(records | jq -c '[.records[] | select(.subtype == "nvme subsystem") | {trtype, adrfam, traddr, trsvcid, treq}][0]')
expect_equal tcp "$(jq -r .trtype <<<"$record")" trtype
expect_equal ipv4 "$(jq -r .adrfam <<<"$record")" adrfam
expect_equal 10.77.0.1 "$(jq -r .traddr <<<"$record")" traddr
expect_equal "$PORT" "$(jq -r .trsvcid <<<"$record")" trsvcid

step "a subsystem that does not allow this host stays hidden, until it does"
subsystem "$NQN.second" '"allow_any_host":false' 2>/dev/null || fail "no second subsystem"
namespace "$NQN.second" m1
listener "$NQN.second" 10.77.0.1
expect_equal "$NQN" "$(names)" names
rpc nvmf_subsystem_add_host "{\"nqn\":\"$NQN.second\",\"host\":\"$(cat /etc/nvme/hostnqn)\"}"
expect_equal "$NQN $NQN.second" "$(names)" names
rpc nvmf_delete_subsystem "{\"nqn\":\"$NQN.second\"}"
expect_equal "$NQN" "$(names)" names

[ "$LAB_TARGET" != spdk ] || exit 0

step "a referral is a record of its own"
rpc nvmf_discovery_add_referral "{\"address\":$(address_json 10.77.0.9)}"
expect_equal 10.77.0.9 "$(records | jq -r '.records[] | select(.subtype == "discovery subsystem referral") | .traddr')" referral

step "a persistent discovery controller learns of a new subsystem"
records --persistent --keep-alive-tmo=30 >/dev/null
controller=$(basename "$(dirname "$(discovery_controller)")")
before=$(nvme discover -d "$controller" -o json | jq .genctr)
cat >/tmp/on-uevent <<'LISTENER'
#!/bin/sh
[ -z "$NVME_AEN" ] || echo "$NVME_AEN" >>/tmp/aen
LISTENER
chmod +x /tmp/on-uevent
busybox uevent /tmp/on-uevent &
listener_pid=$!
socket_open() { grep -q " $listener_pid " /proc/net/netlink; }
eventually 5 socket_open
subsystem "$NQN.third"
listener "$NQN.third" 10.77.0.1
# Notice (2), discovery log page change (F0h), log page 70h.
eventually 10 grep -qi 0x70f002 /tmp/aen
kill "$listener_pid"
after=$(nvme discover -d "$controller" -o json | jq .genctr)
[ "$after" -gt "$before" ] || fail "the generation counter did not move: $before, $after"
nvme disconnect -d "$controller"
