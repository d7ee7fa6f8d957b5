#!/usr/bin/env bash
# Inside the guest of scripts/lab/nvmet: serves a memory device by the kernel's nvmet, then by our daemon, one at a time.
set -eEuo pipefail
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND"; dmesg | tail -n 5; tail -n 5 /tmp/daemon.log' ERR
# shellcheck disable=SC1091 # written by scripts/lab/nvmet
. /share/environment

DONE_SECONDS=500
nvmet=/sys/kernel/config/nvmet

# eventually SECONDS COMMAND…
eventually() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -le "$deadline" ] || { echo "never came true: $*" && return 1; }
        sleep 0.05 # bounded by the deadline above
    done
}

# Until the host has measured what is served now.
served() {
    touch "/share/ready.$1"
    eventually "$DONE_SECONDS" test -e "/share/done.$1"
}

kernel_start() {
    local folder=$nvmet/subsystems/$NQN port=$nvmet/ports/1
    mkdir "$folder" && echo 1 >"$folder/attr_allow_any_host"
    mkdir "$folder/namespaces/1"
    echo -n /dev/ram0 >"$folder/namespaces/1/device_path"
    echo 1 >"$folder/namespaces/1/enable"
    mkdir "$port"
    echo tcp >"$port/addr_trtype"
    echo ipv4 >"$port/addr_adrfam"
    echo "$ADDRESS" >"$port/addr_traddr"
    echo 4420 >"$port/addr_trsvcid"
    ln -s "$folder" "$port/subsystems/$NQN"
}

# And frees the RAM disk's memory for what comes next.
kernel_stop() {
    rm "$nvmet/ports/1/subsystems/$NQN"
    rmdir "$nvmet/ports/1"
    echo 0 >"$nvmet/subsystems/$NQN/namespaces/1/enable"
    rmdir "$nvmet/subsystems/$NQN/namespaces/1" "$nvmet/subsystems/$NQN"
    blockdev --flushbufs /dev/ram0
}

rpc() { /share/pollux rpc --rpc-socket /tmp/rpc "$@"; }

daemon_start() {
    /share/pollux-dataplane --rpc-socket /tmp/rpc --cores 0 >/tmp/daemon.log 2>&1 &
    daemon=$!
    eventually 60 rpc rpc_get_methods
    rpc nvmf_create_transport '{"trtype":"TCP","in_capsule_data_size":8192,"max_queue_depth":256}'
    rpc bdev_malloc_create "{\"name\":\"m0\",\"num_blocks\":$((MIB * 256)),\"block_size\":4096}"
    rpc nvmf_create_subsystem "{\"nqn\":\"$NQN\",\"allow_any_host\":true,\"serial_number\":\"BENCH\"}"
    rpc nvmf_subsystem_add_ns "{\"nqn\":\"$NQN\",\"namespace\":{\"bdev_name\":\"m0\"}}"
    rpc nvmf_subsystem_add_listener "{\"nqn\":\"$NQN\",\"listen_address\":{\"trtype\":\"TCP\",\"adrfam\":\"IPv4\",\
\"traddr\":\"$ADDRESS\",\"trsvcid\":\"4421\"}}"
}

kernel_start
served nvmet
kernel_stop
daemon_start >/dev/null
served pollux
kill -TERM "$daemon"
wait "$daemon"
