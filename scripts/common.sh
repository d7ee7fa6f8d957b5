#!/usr/bin/env bash
# What every script here shares: help from the header comment, messages, Debian packages, stages with timings.
#
# Sourced, never run: `. "$(dirname "$0")/common.sh"`. Gives ROOT (the project) and BUILD (git-ignored products).

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
BUILD=$ROOT/build
# Cargo's tools: those of scripts/deps, and where `cargo install` puts its own.
PATH=$BUILD/tools/bin:$PATH:${CARGO_HOME:-${HOME:-/root}/.cargo}/bin
export ROOT BUILD PATH

# The header comment of the script that was started: its first line says what it is, the rest how to call it.
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; }

# Call with the script's arguments first thing, so that --help needs neither tools nor privileges.
help_if_asked() {
    local argument
    for argument in "$@"; do
        case $argument in --) return 0 ;; -h | --help) show_help && exit 0 ;; esac
    done
}

say() { printf '%s\n' "$*" >&2; }
die() { say "${0##*/}: $*" && exit 1; }
usage_error() { say "${0##*/}: $* (try --help)" && exit 2; }

have() { command -v "$1" >/dev/null 2>&1; }

milliseconds() { date +%s%3N; }
seconds_since() { awk -v from="$1" -v to="$(milliseconds)" 'BEGIN { printf "%.1f", (to - from) / 1000 }'; }

# Those of the named packages that are not installed.
packages_missing() {
    local package
    for package in "$@"; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || printf '%s ' "$package"
    done
}

# Installs what is missing; leaves the network alone when nothing is.
packages_ensure() {
    local missing
    missing=$(packages_missing "$@")
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] || die "missing Debian packages (run as root, or install them): $missing"
    say "installing: $missing"
    apt-get update -qq >&2
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

# wait_until SECONDS WHAT COMMAND…: polls until COMMAND succeeds; says WHAT never happened when it does not.
wait_until() {
    local deadline what=$2
    deadline=$(($(milliseconds) + $1 * 1000))
    shift 2
    until "$@"; do
        [ "$(milliseconds)" -lt "$deadline" ] || { say "gave up waiting until $what" && return 1; }
        sleep 0.05 # bounded by the deadline above
    done
}

alive() { kill -0 "$1" 2>/dev/null; }
gone() { ! alive "$1"; }

# stop_process PID [SECONDS]: SIGTERM, then SIGKILL when it has not gone in time. Says so when it had to.
stop_process() {
    alive "$1" || return 0
    kill -CONT "$1" 2>/dev/null
    kill -TERM "$1" 2>/dev/null
    wait_until "${2:-10}" "process $1 ended after SIGTERM" gone "$1" && return 0
    kill -KILL "$1" 2>/dev/null
    return 1
}
