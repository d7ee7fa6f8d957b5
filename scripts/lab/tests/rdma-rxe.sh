#!/usr/bin/env bash
# NVMe/RDMA over soft RoCE, in the guest: kernel host to us, us to us, us to the kernel's target; multipath with TCP, kill, ext4.
# lab: inside=yes seconds=300 memory=1024M
# shellcheck source=../inside.sh
. /share/inside.sh
RDMA_KIND=rxe
# shellcheck source=../rdma.sh
. /share/rdma.sh
