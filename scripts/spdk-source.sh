#!/usr/bin/env bash
# Where SPDK 20.07 comes from: Debian's source package of ceph holds it, with its DPDK.
#
# Sourced after common.sh, by scripts/spdk and scripts/spdk-peer. The package index and the download live under build/spdk
# in an apt configuration of their own: the system's sources stay as they are. What is kept is build/spdk/source.tar.
# shellcheck disable=SC2034 # used by the scripts that source this

SPDK_HOME=$BUILD/spdk
# Debian 12's archive no longer holds this source; Debian 13's does.
SPDK_SUITE=trixie
SPDK_SOURCE_PACKAGE=ceph
# HAVE_ARC4RANDOM: this glibc declares arc4random, and SPDK 20.07's own definition would clash with it.
SPDK_CFLAGS=-DHAVE_ARC4RANDOM
# x86-64-v2: the result runs on every machine of the last decade, emulated ones too.
SPDK_CONFIGURE=(--disable-tests --disable-unit-tests --without-vhost --without-virtio --without-isal
    --target-arch=x86-64-v2)
SPDK_PACKAGES=(build-essential pkg-config meson ninja-build python3 dpkg-dev xz-utils
    libclang-dev libaio-dev libnuma-dev libssl-dev uuid-dev libncurses-dev)

# Leaves the package's tarball in the folder it is given; fails when it cannot be had.
spdk_download() {
    local apt=$1 mirror options
    # shellcheck disable=SC2016 # apt expands it
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | head -n 1)
    [ -n "$mirror" ] || { say "no Debian mirror in the system's apt configuration" && return 1; }
    mkdir -p "$apt"/{lists,cache,state}
    : >"$apt/state/status"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $SPDK_SUITE main" >"$apt/sources.list"
    options=(-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache"
        -o "Dir::State::Status=$apt/state/status" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" -qq update &&
        (cd "$apt" && apt-get "${options[@]}" -qq source --download-only --tar-only "$SPDK_SOURCE_PACKAGE")
}

# Packs SPDK's part of the source package into build/spdk/source.tar, once: unpacking the whole takes most of a minute.
# Exits with 75 when the package cannot be downloaded.
spdk_source_ensure() {
    local scratch tarball
    [ ! -e "$SPDK_HOME/source.tar" ] || return 0
    mkdir -p "$SPDK_HOME"
    scratch=$(mktemp -d "$SPDK_HOME/source.XXXXXX")
    spdk_download "$scratch/apt" >&2 || { rm -rf "$scratch" && say "cannot download $SPDK_SOURCE_PACKAGE's source" && exit 75; }
    tarball=$(find "$scratch/apt" -name "${SPDK_SOURCE_PACKAGE}_*.orig.tar.xz" | head -n 1)
    [ -n "$tarball" ] || die "the download left no tarball of $SPDK_SOURCE_PACKAGE"
    mkdir "$scratch/src"
    tar -xJf "$tarball" -C "$scratch/src" --wildcards --strip-components=3 '*/src/spdk/*'
    tar -cf "$scratch/source.tar" -C "$scratch/src" .
    mv "$scratch/source.tar" "$SPDK_HOME/source.tar"
    rm -rf "$scratch"
}

# Unpacks the source into an empty folder.
spdk_unpack() {
    spdk_source_ensure
    rm -rf "$1" && mkdir -p "$1"
    tar -xf "$SPDK_HOME/source.tar" -C "$1"
}
