#!/usr/bin/env bash
# NVMe/RDMA over soft RoCE: peers that die, freeze, refuse or say nothing, resets, the link and the address that go and return.
# lab: inside=yes seconds=300 memory=1024M
# shellcheck source=../inside.sh
. /share/inside.sh
RDMA_KIND=rxe
# shellcheck source=../rdma-endings.sh
. /share/rdma-endings.sh
