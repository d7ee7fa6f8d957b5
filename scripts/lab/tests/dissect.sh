#!/usr/bin/env bash
# A captured session with every way of moving data, with digests and without: Wireshark finds nothing malformed in it.
# lab: nics=1 seconds=60 capture=ICReq,ICResp,CapsuleCommand,CapsuleResponse,C2HData,R2T,H2CData
# shellcheck source=../inside.sh
. /share/inside.sh

transport
memory_device m0 32
simple_target m0 10.77.0.1
nvme discover -t tcp -a 10.77.0.1 -s "$PORT" >/dev/null
for digests in "" "--hdr-digest --data-digest"; do
    step "a session ${digests:-without digests}"
    # shellcheck disable=SC2086 # words
    connect 10.77.0.1 $digests
    device=$(device_ready)
    controller=/dev/$(basename "$(controller_of 10.77.0.1)")
    # 4 KiB goes in the capsule; 256 KiB by R2T.
    fio_verify "$device" --bs=4k --size=1M --iodepth=8
    fio_verify "$device" --bs=256k --size=4M --iodepth=4
    nvme id-ctrl "$controller" >/dev/null
    nvme smart-log "$controller" >/dev/null
    expect_failure nvme io-passthru "$device" --opcode=0x7f -n 1 2>/dev/null
    nvme flush "$device" -n 1
    nvme disconnect -n "$NQN"
done
