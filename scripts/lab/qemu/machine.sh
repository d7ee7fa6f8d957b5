#!/usr/bin/env bash
# A machine with NVMe devices behind an IOMMU, emulated: kernel and initramfs from Debian packages, and commands run in it.
#
# Sourced after common.sh. machine_start boots it; `inside COMMAND` runs bash in it and has its output and status; `qmp`
# speaks to the emulator; machine_end ends it.

# shellcheck disable=SC2034 # used by what sources this
QEMU_PACKAGES=(qemu-system-x86 seabios ipxe-qemu kmod busybox-static bash nvme-cli e2fsprogs util-linux coreutils jq cpio)
# Debian's kernel for virtual machines: small, with the IOMMU's and nvme's drivers built in.
KERNEL_PACKAGE=linux-image-cloud-amd64
KERNEL_MODULES=(vfio_iommu_type1 vfio_pci virtio_pci virtio_net nvme_tcp)
GUEST_BINARIES=(/usr/bin/bash /usr/sbin/nvme /usr/bin/jq /sbin/mkfs.ext4 /usr/sbin/blkdiscard /usr/bin/cmp
    /usr/bin/env /usr/bin/head /usr/bin/dd /usr/bin/sleep /usr/bin/mount /usr/bin/umount)
MACHINE_MEMORY=1536M
# Two, for two reactors that share controllers: one is emulated faster, but shows less.
MACHINE_CPUS=2
# Booting takes ten seconds; on a machine that does much else, a minute.
BOOT_SECONDS=180
INSIDE_SECONDS=120
# Where the guest takes commands, and where it serves NVMe over TCP.
SHELL_PORT=7000
NVME_PORT=4420

# The package of the newest such kernel, or nothing.
kernel_package() { apt-cache depends "$KERNEL_PACKAGE" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1; }

# Prints the folder of the unpacked kernel package; exits with 75 when it cannot be downloaded.
kernel_folder() {
    local name folder
    name=$(kernel_package)
    [ -n "$name" ] || { apt-get update -qq >&2 && name=$(kernel_package); }
    [ -n "$name" ] || { say "Debian has no $KERNEL_PACKAGE here" && exit 75; }
    folder=$BUILD/lab/qemu/$name
    if [ ! -e "$folder/done" ]; then
        rm -rf "$folder" && mkdir -p "$folder/deb"
        (cd "$folder/deb" && { kernel_download "$name" || { apt-get update -qq && kernel_download "$name"; }; }) >&2 ||
            { say "cannot download $name" && exit 75; }
        dpkg-deb -x "$folder"/deb/*.deb "$folder"
        rm -rf "$folder/deb"
        depmod -b "$folder" "${name#linux-image-}"
        touch "$folder/done"
    fi
    echo "$folder"
}

kernel_download() { apt-get -o APT::Sandbox::User=root download -qq "$1"; }

# Prints the path of an initramfs for that kernel, with the programs of folder $2.
initramfs() {
    local kernel=$1 programs=$2 version root product key
    version=$(basename "$kernel") && version=${version#linux-image-}
    key=$({ dpkg-query -W && cat "${BASH_SOURCE[0]}" "$QEMU_LAB/init" && echo "$version" && sha256sum "$programs"/*; } | sha256sum | cut -c1-16)
    product=$BUILD/lab/qemu/guest-$key.cpio
    if [ ! -e "$product" ]; then
        root=$(mktemp -d)
        assemble "$root" "$kernel" "$version" "$programs"
        rm -f "$BUILD"/lab/qemu/guest-*.cpio
        # Uncompressed: unpacking is what a slow guest would wait for.
        (cd "$root" && find . | cpio -o -H newc --quiet -R 0:0) >"$product.$$" && mv "$product.$$" "$product"
        rm -rf "$root"
    fi
    echo "$product"
}

assemble() {
    local root=$1 kernel=$2 version=$3 programs=$4 applet module binary
    (cd "$root" && mkdir -p bin sbin usr/bin usr/sbin lib lib64 etc/nvme proc sys dev run tmp mnt root)
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    for binary in "${GUEST_BINARIES[@]}" "$programs"/*; do
        rm -f "$root/bin/${binary##*/}"
        install -D "$(readlink -f "$binary")" "$root/bin/${binary##*/}"
        copy_libraries "$root" "$binary"
    done
    # glibc opens it when a thread is cancelled; ldd does not see that.
    install -D "$(readlink -f /lib/x86_64-linux-gnu/libgcc_s.so.1)" "$root/lib/x86_64-linux-gnu/libgcc_s.so.1"
    for module in $(modprobe -d "$kernel" -S "$version" -a -D --ignore-install "${KERNEL_MODULES[@]}" | awk '$1 == "insmod" { print $2 }' | sort -u); do
        install -D "$module" "$root/lib/modules/$version/${module#*/modules/"$version"/}"
        strip --strip-debug "$root/lib/modules/$version/${module#*/modules/"$version"/}"
    done
    cp "$kernel/lib/modules/$version"/modules.{builtin,builtin.modinfo,order} "$root/lib/modules/$version/"
    depmod -b "$root" "$version"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    echo '127.0.0.1 localhost' >"$root/etc/hosts"
    install "$QEMU_LAB/init" "$root/init"
}

copy_libraries() {
    local library
    for library in $(ldd "$2" 2>/dev/null | grep -o '/[^ ]*'); do
        [ -e "$1$library" ] || install -D "$(readlink -f "$library")" "$1$library"
    done
}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# machine_start PROGRAMS: boots, with what is in that folder. Sets MACHINE_PID and HOST_NVME_PORT.
machine_start() {
    local kernel guest
    kernel=$(kernel_folder) && guest=$(initramfs "$kernel" "$1") || return 1
    MACHINE=$(mktemp -d /tmp/pollux-qemu.XXXXXX)
    HOST_SHELL_PORT=$(free_port) HOST_NVME_PORT=$(free_port)
    truncate -s 128M "$MACHINE/nvme0.raw" "$MACHINE/nvme1.raw"
    # no_timer_check: a machine that is starved of time takes its timer for broken.
    # The first device has blocks of 512 bytes and commands of 128 KiB at most; the second blocks of 4096 bytes.
    qemu-system-x86_64 -accel tcg -machine q35,kernel-irqchip=split -cpu max -smp "$MACHINE_CPUS" -m "$MACHINE_MEMORY" -nodefaults \
        -display none -no-reboot -kernel "$kernel"/boot/vmlinuz-* -initrd "$guest" \
        -append "console=ttyS0 quiet loglevel=4 panic=-1 no_timer_check intel_iommu=on iommu=nopt lab.port=$SHELL_PORT" \
        -serial "file:$MACHINE/console.log" -qmp "unix:$MACHINE/qmp,server=on,wait=off" \
        -device intel-iommu,intremap=on,caching-mode=on,aw-bits=48 \
        -device pcie-root-port,id=port0,chassis=1,slot=1 -device pcie-root-port,id=port1,chassis=2,slot=2 \
        -drive "file=$MACHINE/nvme0.raw,if=none,id=disk0,format=raw,cache=unsafe,discard=unmap" \
        -device nvme,id=nvme0,bus=port0,serial=LAB0,mdts=5,drive=disk0 \
        -drive "file=$MACHINE/nvme1.raw,if=none,id=disk1,format=raw,cache=unsafe,discard=unmap" \
        -device nvme,id=nvme1,bus=port1,serial=LAB1,drive=disk1,logical_block_size=4096,physical_block_size=4096 \
        -netdev "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:$HOST_SHELL_PORT-:$SHELL_PORT,hostfwd=tcp:127.0.0.1:$HOST_NVME_PORT-:$NVME_PORT" \
        -device virtio-net-pci,netdev=net,romfile= \
        </dev/null >"$MACHINE/qemu.log" 2>&1 &
    MACHINE_PID=$!
    : >>"$MACHINE/console.log"
    wait_until "$BOOT_SECONDS" "the machine was up" machine_is_up_or_gone && machine_is_up
}

machine_is_up() { grep -q 'LAB: ready' "$MACHINE/console.log"; }
machine_is_up_or_gone() { machine_is_up || gone "$MACHINE_PID"; }

# inside COMMAND…: runs it with bash in the machine; prints what it said, returns its status.
inside() {
    local line status=''
    exec 3<>"/dev/tcp/127.0.0.1/$HOST_SHELL_PORT" || return 125
    # shellcheck disable=SC2016 # the guest expands it
    printf 'bash -c "$(echo %s | base64 -d)" 2>&1; status=$?; echo; echo "LAB-STATUS:$status"; exit\n' \
        "$(base64 -w 0 <<<"$*")" >&3
    while IFS= read -r -t "$INSIDE_SECONDS" line <&3; do
        case $line in LAB-STATUS:*) status=${line#LAB-STATUS:} && break ;; esac
        printf '%s\n' "$line"
    done
    exec 3>&-
    return "${status:-125}"
}

# qmp COMMAND [ARGUMENTS]: the emulator does it.
qmp() {
    python3 - "$MACHINE/qmp" "$@" <<'END'
import json, socket, sys
link = socket.socket(socket.AF_UNIX)
link.settimeout(30)
link.connect(sys.argv[1])
stream = link.makefile("rw")

def answer():
    while True:
        message = json.loads(stream.readline())
        if "return" in message or "error" in message:
            return message

def call(command, arguments):
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    return answer()

json.loads(stream.readline())
call("qmp_capabilities", {})
result = call(sys.argv[2], json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
print(json.dumps(result))
sys.exit("error" in result)
END
}

machine_end() {
    [ -z "${MACHINE_PID:-}" ] || { kill -KILL "$MACHINE_PID" && wait "$MACHINE_PID"; } 2>/dev/null
    [ -z "${MACHINE:-}" ] || rm -rf "$MACHINE"
    MACHINE_PID='' MACHINE=''
}
