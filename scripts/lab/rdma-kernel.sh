#!/usr/bin/env bash
# The kernel's own target over RDMA, in the guest. Sourced after inside.sh.

KERNEL_NQN=nqn.2025-01.org.pollux:kernel
KERNEL_PORT=4430
NVMET=/sys/kernel/config/nvmet

# kernel_target file|memory: its subsystem, KERNEL_NQN, with a file of 64 MiB or a RAM disk as namespace 1.
kernel_target() {
    local subsystem=$NVMET/subsystems/$KERNEL_NQN path=/tmp/kernel.img
    mkdir "$subsystem" "$subsystem/namespaces/1"
    echo 1 >"$subsystem/attr_allow_any_host"
    if [ "$1" = memory ]; then
        path=/dev/ram0
    else
        truncate -s 64M "$path"
        echo 1 >"$subsystem/namespaces/1/buffered_io"
    fi
    echo "$path" >"$subsystem/namespaces/1/device_path"
    echo 1 >"$subsystem/namespaces/1/enable"
}

# kernel_listen ADDRESS PORT_NUMBER
kernel_listen() {
    local port=$NVMET/ports/$2
    mkdir "$port"
    echo rdma >"$port/addr_trtype"
    echo ipv4 >"$port/addr_adrfam"
    echo "$1" >"$port/addr_traddr"
    echo "$KERNEL_PORT" >"$port/addr_trsvcid"
    ln -s "$NVMET/subsystems/$KERNEL_NQN" "$port/subsystems/$KERNEL_NQN"
}
