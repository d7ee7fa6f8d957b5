#!/usr/bin/env bash
# The second guest: carries out, one after the other and in this shell, what the first one asks for with `peer`.
# shellcheck source=inside.sh
. /share/inside.sh
# shellcheck source=rdma-kernel.sh
. /share/rdma-kernel.sh
trap - ERR

# Ends with the lab, which kills it.
while :; do
    for request in /share/peer-*.request; do
        [ -e "$request" ] || continue
        answer=${request%.request}
        status=0
        eval "$(cat "$request")" >/tmp/said 2>&1 || status=$?
        rm "$request"
        { echo "$status" && cat /tmp/said; } >"$answer.new"
        mv "$answer.new" "$answer.answer"
    done
    sleep 0.05
done
