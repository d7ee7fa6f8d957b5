#!/usr/bin/env bash
# A cluster under test: nodes, each a data plane in a network namespace of its own, and management that keeps the record.
#
# Sourced after target.sh. Every node has a replica of one volume in a file, reaches those of the others, and listens for the
# volume at 10.77.0.(11+N); the guest is on the same bridge. Each runs until it is killed; its configuration is made anew by RPC
# when it starts again, as its file alone outlives it. `manager` plays management.

VOLUME_UUID=7f3c1d7e-98f8-4a54-9f0b-8f5f4d2b6a10
VOLUME_NQN=nqn.2025-01.org.pollux:lab
REPLICA_NQN=nqn.2025-01.org.pollux:replica
VOLUME_BYTES=$((128 << 20))
FRONT_PORT=4420
BACK_PORT=4430
# Identifiers of controllers are unique in a subsystem: every node has a range of them.
CONTROLLERS_OF_NODE=1000

node_space() { echo "$NAMESPACE-n$1"; }
node_address() { echo "10.77.0.$((11 + $1))"; }
node_rpc() { "$(pollux_bin)/pollux" rpc --rpc-socket "$SOCKETS/node$1" "${@:2}"; }
node_call() { node_rpc "$@" >"$WORK/answer.$1" 2>&1 || { say "node $1: $2: $(cat "$WORK/answer.$1")" && return 1; }; }
node_answers() { node_rpc "$1" rpc_get_methods >/dev/null 2>&1; }
node_pid() { cat "$WORK/node$1.pid" 2>/dev/null; }
node_signal() { kill "-$2" "$(node_pid "$1")"; }

# nodes_begin COUNT: namespaces on the bridge, which lab_bridge has made; nothing runs yet.
nodes_begin() {
    local node space
    NODES=$1
    for ((node = 0; node < NODES; node++)); do
        space=$(node_space "$node")
        ip netns add "$space"
        ip -n "$space" link set lo up
        ip -n "$NAMESPACE" link add "node$node" mtu "$LAB_MTU" type veth peer name eth0 netns "$space"
        ip -n "$NAMESPACE" link set "node$node" master bridge0 up
        ip -n "$space" addr add "$(node_address "$node")/24" dev eth0
        ip -n "$space" link set eth0 mtu "$LAB_MTU" up
    done
}

nodes_end() {
    local node
    [ ! -e "$WORK/manager.pid" ] || kill "$(cat "$WORK/manager.pid")" 2>/dev/null
    for ((node = 0; node < ${NODES:-0}; node++)); do
        kill -KILL "$(node_pid "$node")"
        ip netns del "$(node_space "$node")"
    done 2>/dev/null
    NODES=0
}

node_json() { printf '{"trtype":"TCP","adrfam":"IPv4","traddr":"%s","trsvcid":"%s"}' "$(node_address "$1")" "$2"; }

# The devices of all replicas, as a node calls them.
replica_names() {
    local other list=''
    for ((other = 0; other < NODES; other++)); do
        if [ "$other" = "$1" ]; then list+=',"own"'; else list+=",\"r${other}n1\""; fi
    done
    echo "[${list#,}]"
}

# A data plane with its replica behind a device that injects errors when told to.
node_start() {
    local node=$1
    rm -f "$SOCKETS/node$node"
    # shellcheck disable=SC2016 # the inner shell expands it
    ip netns exec "$(node_space "$node")" bash -c 'echo $$ >"$0" && exec "$@"' "$WORK/node$node.pid" \
        "$(pollux_bin)/pollux-dataplane" --rpc-socket "$SOCKETS/node$node" --cores "$((node % 2))" \
        </dev/null >>"$WORK/node$node.log" 2>&1 &
    wait_until "$TARGET_START_SECONDS" "node $node answered" node_answers "$node" || return 1
    node_call "$node" nvmf_create_transport '{"trtype":"TCP"}' &&
        node_call "$node" bdev_uring_create "{\"name\":\"disk\",\"filename\":\"$WORK/disk$node\",\"block_size\":4096,\
\"size_bytes\":$((VOLUME_BYTES + (4 << 20)))}" &&
        node_call "$node" bdev_error_create '{"base_name":"disk"}' &&
        node_call "$node" replica_create "{\"name\":\"own\",\"bdev_name\":\"EE_disk\",\"volume\":\"$VOLUME_UUID\",\
\"size_bytes\":$VOLUME_BYTES,\"zeroed\":true}" &&
        node_call "$node" nvmf_create_subsystem "{\"nqn\":\"$REPLICA_NQN$node\",\"allow_any_host\":true,\"hidden\":true}" &&
        node_call "$node" nvmf_subsystem_add_ns "{\"nqn\":\"$REPLICA_NQN$node\",\"namespace\":{\"bdev_name\":\"own\"}}" &&
        node_call "$node" nvmf_subsystem_add_listener \
            "{\"nqn\":\"$REPLICA_NQN$node\",\"listen_address\":$(node_json "$node" $BACK_PORT)}"
}

# The ways to the others, whether they can be reached or not, and the volume with a listener for hosts.
node_join() {
    local node=$1 other first=$(($1 * CONTROLLERS_OF_NODE + 1))
    for ((other = 0; other < NODES; other++)); do
        [ "$other" != "$node" ] || continue
        node_call "$node" bdev_nvme_attach_controller "{\"name\":\"r$other\",\"trtype\":\"TCP\",\"adrfam\":\"IPv4\",\
\"traddr\":\"$(node_address "$other")\",\"trsvcid\":\"$BACK_PORT\",\"subnqn\":\"$REPLICA_NQN$other\",\
\"reconnect_delay_sec\":1,\"replica_block_size\":4096}" || return 1
    done
    node_call "$node" volume_create "{\"name\":\"v\",\"uuid\":\"$VOLUME_UUID\",\"replicas\":$(replica_names "$node")}" &&
        node_call "$node" nvmf_create_subsystem "{\"nqn\":\"$VOLUME_NQN\",\"allow_any_host\":true,\"ana_reporting\":true,\
\"serial_number\":\"LAB0001\",\"model_number\":\"Lab\",\"min_cntlid\":$first,\"max_cntlid\":$((first + CONTROLLERS_OF_NODE - 1))}" &&
        node_call "$node" nvmf_subsystem_add_ns \
            "{\"nqn\":\"$VOLUME_NQN\",\"namespace\":{\"bdev_name\":\"v\",\"nsid\":1,\"uuid\":\"$VOLUME_UUID\"}}" &&
        node_call "$node" nvmf_subsystem_add_listener "{\"nqn\":\"$VOLUME_NQN\",\"listen_address\":$(node_json "$node" $FRONT_PORT)}"
}

# node_up NODE…: starts these, then lets them find each other.
node_up() {
    local node
    for node in "$@"; do node_start "$node" || return 1; done
    for node in "$@"; do node_join "$node" || return 1; done
}

node_gone() { gone "$(node_pid "$1")"; }
node_down() {
    local node
    for node in "$@"; do node_signal "$node" KILL; done
    for node in "$@"; do wait_until "$TARGET_STOP_SECONDS" "node $node was gone" node_gone "$node" || return 1; done
}

# SIGTERM to all; fails when one does not end in time, or said that it panicked.
nodes_stop() {
    local node
    for ((node = 0; node < NODES; node++)); do node_signal "$node" TERM; done
    for ((node = 0; node < NODES; node++)); do
        wait_until "$TARGET_STOP_SECONDS" "node $node ended after SIGTERM" node_gone "$node" || return 1
    done
    ! grep -H 'panicked' "$WORK"/node*.log >&2
}

manager_start() {
    "$LAB/manager" "$SOCKETS" "$WORK" "$NODES" </dev/null >>"$WORK/manager.log" 2>&1 &
    echo $! >"$WORK/manager.pid"
}

# cut_off NODE PEER: what PEER (a node's number, or `guest`) sends no longer reaches NODE. Both ways: twice.
cut_off() {
    local from=10.77.0.2
    [ "$2" = guest ] || from=$(node_address "$2")
    ip netns exec "$(node_space "$1")" nft -f - <<RULES
table inet lab {
    chain in { type filter hook input priority 0; ip saddr $from drop; }
}
RULES
}
heal() {
    local node
    for ((node = 0; node < NODES; node++)); do
        ip netns exec "$(node_space "$node")" nft delete table inet lab 2>/dev/null
    done
    return 0
}

# Ends management, and lets the head finish what it has and let go.
quiet() {
    local head
    kill "$(cat "$WORK/manager.pid")"
    wait_until 10 "management ended" gone "$(cat "$WORK/manager.pid")" || return 1
    head=$(jq .head "$WORK/record")
    node_call "$head" volume_deactivate '{"name":"v"}'
}

# Whether what hosts see is the same in every file.
copies_compare() {
    local node
    for ((node = 1; node < NODES; node++)); do
        # Their metadata lies in front.
        cmp -i $((1 << 20)) -n "$VOLUME_BYTES" "$WORK/disk0" "$WORK/disk$node" || return 1
    done
}

# node VERB ARGUMENT…: what a scenario may ask for.
node_action() {
    local verb=$1
    shift
    case $verb in
        up) node_up "$@" ;;
        down) node_down "$@" ;;
        hang) node_signal "$1" STOP ;;
        wake) node_signal "$1" CONT ;;
        rpc) node_rpc "$@" ;;
        cut) cut_off "$@" ;;
        heal) heal ;;
        manage) manager_start ;;
        move) echo "$1" >"$WORK/move.new" && mv "$WORK/move.new" "$WORK/move" ;;
        record) cat "$WORK/record" ;;
        quiet) quiet ;;
        compare) copies_compare ;;
        *) echo "no such action of nodes: $verb" && return 2 ;;
    esac
}
