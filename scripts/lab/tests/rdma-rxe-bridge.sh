#!/usr/bin/env bash
# NVMe/RDMA over soft RoCE between two guests on a bridge: kernel host to us, us to us, us to the kernel; a kill and a lost link.
# lab: inside=yes peer=yes seconds=300 memory=640M
# shellcheck source=../inside.sh
. /share/inside.sh
RDMA_KIND=rxe
# shellcheck source=../rdma-bridge.sh
. /share/rdma-bridge.sh
