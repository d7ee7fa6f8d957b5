#!/usr/bin/env bash
# A network namespace with taps, and a User-mode Linux guest on them: what `run` and `test` are made of.
#
# Sourced after common.sh. lab_begin makes NAMESPACE, WORK and SHARE; lab_end removes them. NIC number N of the guest is
# vecN with 10.77.N.2 and fd77:N::2; the host's end in the namespace has 10.77.N.1 and fd77:N::1. A second guest, the peer,
# shares the first network: 10.77.0.3, over a bridge that is then the host's end.

LAB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
LAB_MTU=9000

# lab_begin NAME NICS [PEER]: with a PEER (any word) there is a place for a second guest. Unique per process, so that any number of labs can run side by side.
lab_begin() {
    local nic
    [ "$(id -u)" = 0 ] || die "needs root: network namespaces and taps"
    [ -c /dev/net/tun ] || die "needs /dev/net/tun"
    NAMESPACE=pollux-$1-$$
    WORK=$BUILD/lab/runs/$1.$$
    SHARE=$WORK/share
    NICS=$2
    GUEST_PID='' PEER_PID=''
    mkdir -p "$SHARE"
    # Sockets have short paths, whatever the depth of this folder.
    SOCKETS=$(mktemp -d /tmp/pollux-lab.XXXXXX)
    ip netns add "$NAMESPACE"
    ip -n "$NAMESPACE" link set lo up
    for ((nic = 0; nic < NICS; nic++)); do
        ip -n "$NAMESPACE" tuntap add "tap$nic" mode tap
        ip -n "$NAMESPACE" addr add "10.77.$nic.1/24" dev "tap$nic"
        ip -n "$NAMESPACE" addr add "fd77:$nic::1/64" dev "tap$nic" nodad
        ip -n "$NAMESPACE" link set "tap$nic" mtu "$LAB_MTU" up
    done
    [ -z "${3:-}" ] || lab_bridge
}

# Network 0 becomes a bridge with the taps of both guests.
lab_bridge() {
    ip -n "$NAMESPACE" link add bridge0 mtu "$LAB_MTU" type bridge
    ip -n "$NAMESPACE" addr flush dev tap0
    ip -n "$NAMESPACE" addr add 10.77.0.1/24 dev bridge0
    ip -n "$NAMESPACE" addr add fd77:0::1/64 dev bridge0 nodad
    ip -n "$NAMESPACE" tuntap add peer0 mode tap
    ip -n "$NAMESPACE" link set peer0 mtu "$LAB_MTU" up
    ip -n "$NAMESPACE" link set tap0 master bridge0
    ip -n "$NAMESPACE" link set peer0 master bridge0
    ip -n "$NAMESPACE" link set bridge0 up
}

lab_end() {
    guest_kill
    [ -z "${NAMESPACE:-}" ] || ip netns del "$NAMESPACE" 2>/dev/null
    [ -z "${SOCKETS:-}" ] || rm -rf "$SOCKETS"
    [ -z "${WORK:-}" ] || rm -rf "$WORK"
    NAMESPACE='' SOCKETS='' WORK=''
}

in_namespace() { ip netns exec "$NAMESPACE" "$@"; }

# guest_start SCRIPT SECONDS MEMORY [KERNEL_ARGUMENT]: boots, sets GUEST_PID; the console goes to $WORK/console.log.
guest_start() {
    local script=$1 seconds=$2 memory=$3 nic kernel guest arguments
    kernel=$("$LAB/kernel") || die "no kernel for the lab"
    guest=$("$LAB/guest") || die "no guest for the lab"
    cp "$script" "$SHARE/run.sh"
    rm -f "$SHARE/run.status"
    arguments=("mem=$memory" "initrd=$guest" con=null "con0=null,fd:1" "uml_dir=$SOCKETS" umid=guest
        quiet loglevel=4 "lab.share=$SHARE")
    [ -z "${4:-}" ] || arguments+=("$4")
    for ((nic = 0; nic < NICS; nic++)); do
        arguments+=("vec$nic:transport=tap,ifname=tap$nic,depth=128,gro=1,mtu=$LAB_MTU"
            "lab.net$nic=10.77.$nic.2/24,fd77:$nic::2/64")
    done
    # The guest's memory is a file: in /dev/shm, never on a disk.
    (TMPDIR=/dev/shm exec ip netns exec "$NAMESPACE" timeout -s KILL "$seconds" "$kernel" "${arguments[@]}") \
        </dev/null >"$WORK/console.log" 2>&1 &
    GUEST_PID=$!
}

# peer_start SECONDS MEMORY: boots the second guest, which runs $SHARE/peer.sh; its console goes to $WORK/peer.log.
peer_start() {
    local arguments
    mkdir -p "$SOCKETS/peer"
    arguments=("mem=$2" "initrd=$("$LAB/guest")" con=null "con0=null,fd:1" "uml_dir=$SOCKETS/peer" umid=guest quiet loglevel=4
        "lab.share=$SHARE" lab.script=peer "vec0:transport=tap,ifname=peer0,depth=128,gro=1,mtu=$LAB_MTU"
        "lab.net0=10.77.0.3/24,fd77:0::3/64")
    (TMPDIR=/dev/shm exec ip netns exec "$NAMESPACE" timeout -s KILL "$1" "$("$LAB/kernel")" "${arguments[@]}") \
        </dev/null >"$WORK/peer.log" 2>&1 &
    PEER_PID=$!
}

# Waits for the guest; its script's status, or 125 when it never got to say one (a time-out or a crash).
guest_wait() {
    wait "$GUEST_PID" 2>/dev/null
    GUEST_PID=
    [ -e "$SHARE/run.status" ] || return 125
    return "$(cat "$SHARE/run.status")"
}

guest_kill() {
    local pid
    # A guest leaves the process group of its timeout: its processes are those that were told of its sockets.
    [ -z "${SOCKETS:-}" ] || pkill -KILL -f "uml_dir=$SOCKETS" || true
    for pid in ${GUEST_PID:-} ${PEER_PID:-}; do
        kill -KILL "$pid" || true
        wait "$pid"
    done
    GUEST_PID='' PEER_PID=''
} 2>/dev/null
