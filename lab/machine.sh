#!/bin/bash
# Boots another Linux kernel in a small QEMU machine and runs a script in it as root.
#
#   machine.sh prepare KERNEL                downloads the kernel and the tools (Debian), once
#   machine.sh run KERNEL OUT SCRIPT [ARGUMENT]...
#                                            runs SCRIPT; its exit status becomes this one's
#
# KERNEL is 6.1, 6.12 or 7.3.  The machine sees all files of this host read-only, below a RAM disk: what
# it writes is gone at its end, except in the directory OUT, which it has as /out.  debugfs and
# tracefs are mounted, modprobe finds all modules of the kernel, /dev/vda is an empty disk of 1 GB,
# and there is no network.
#
# Environment: LAB, where the downloads are (default: .lab); TIMEOUT, seconds until the machine
# is ended (default: 1800).
set -euo pipefail

HERE=$(dirname "$(readlink -f "$0")")
LAB=${LAB:-$(dirname "$HERE")/.lab}
KERNELS=$LAB/kernels
EXTRA=$LAB/extra        # unpacked packages, which the machine has over this host's /usr
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Modules that are needed before this host's files can be mounted.
EARLY=(virtio_pci virtio_console 9pnet_virtio 9p overlay)
TOOLS=(kmod libkmod2 dmsetup libdevmapper1.02.1 btrfs-progs liblzo2-2
    udev libudev1 libsystemd-shared multipath-tools kpartx libsgutils2-1.46-2 liburcu8
    open-iscsi libopeniscsiusr libisns0 nvme-cli libnvme1)
# Programs that this host must have, and their packages.
NEEDED=(qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio xz:xz-utils fio:fio
    blktrace:blktrace blkzone:util-linux mkfs.ext4:e2fsprogs tc:iproute2)

fail() { echo "machine.sh: $*" >&2; exit 1; }

mirror() {  # that apt on this host uses
    local found
    found=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sed '/security/d;q')
    [ -n "$found" ] || fail "apt has no Debian mirror: run apt-get update"
    echo "${found%/}"
}

apt_options() {  # SUITE: options that leave this host's own package lists alone
    local lists=$LAB/lists-$1
    mkdir -p "$lists/partial"
    echo "deb [signed-by=$KEYRING] $(mirror) $1 main" > "$LAB/$1.list"
    echo -o "Dir::Etc::sourcelist=$LAB/$1.list" -o Dir::Etc::sourceparts=- \
        -o "Dir::State::Lists=$lists" -o APT::Sandbox::User=root \
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
}

newest() {  # SUITE REGEX: the newest package whose name matches
    # shellcheck disable=SC2046
    apt-cache $(apt_options "$1") pkgnames | grep -E "$2" | sort -V | tail -n 1
}

unpack() {  # SUITE DIRECTORY PACKAGE...
    local suite=$1 into=$2 work package folder
    shift 2
    work=$(mktemp -d "$LAB/fetch.XXXXXX")
    # shellcheck disable=SC2046
    (cd "$work" && apt-get $(apt_options "$suite") -q download "$@" > /dev/null)
    for package in "$work"/*.deb; do dpkg -x "$package" "$work/root"; done
    # /bin, /sbin and /lib are links to /usr on this host; directories would hide them.
    mkdir -p "$into/usr"
    for folder in bin sbin lib lib64; do
        [ ! -d "$work/root/$folder" ] || { mkdir -p "$into/usr/$folder"
            cp -a "$work/root/$folder/." "$into/usr/$folder/"; }
    done
    cp -a "$work/root/usr/." "$into/usr/"
    [ ! -d "$work/root/boot" ] || cp -a "$work/root/boot" "$into/"
    rm -rf "$into"/usr/share/{doc,man,locale} "$work"
}

kmod() {  # NAME ARGUMENT...: modprobe or depmod, which this host need not have
    local name=$1
    shift
    (export LD_LIBRARY_PATH=$EXTRA/usr/lib/x86_64-linux-gnu; exec -a "$name" "$EXTRA/usr/bin/kmod" "$@")
}

version_of() { basename "$(echo "$KERNELS/$1"/usr/lib/modules/*)"; }

image_of() {  # KERNEL
    local found
    for found in "$KERNELS/$1"/boot/vmlinuz-* "$KERNELS/$1"/usr/lib/modules/*/vmlinuz; do
        [ ! -e "$found" ] || { echo "$found"; return; }
    done
    fail "kernel $1 is missing: run machine.sh prepare $1"
}

make_initramfs() {  # KERNEL
    local kernel=$1 version root module path name
    version=$(version_of "$kernel")
    root=$(mktemp -d "$LAB/initramfs.XXXXXX")
    mkdir -p "$root"/{bin,modules,proc,sys,dev,host,extra,rw,new}
    cp "$(command -v busybox)" "$root/bin/busybox"
    for module in "${EARLY[@]}"; do
        kmod modprobe -d "$KERNELS/$kernel/usr" -S "$version" --show-depends "$module" 2> /dev/null || true
    done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' > "$root/paths"
    : > "$root/modules/order"
    while read -r path; do
        name=$(basename "${path%.xz}")
        case $path in
            *.xz) xz -dc "$path" > "$root/modules/$name" ;;
            *) cp "$path" "$root/modules/$name" ;;
        esac
        echo "$name" >> "$root/modules/order"
    done < "$root/paths"
    install -m 755 "$HERE/guest-init.sh" "$root/init"
    (cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$KERNELS/$kernel/initramfs.gz"
    rm -rf "$root"
}

prepare() {  # KERNEL
    local kernel=$1 missing=() need suite modules packages
    [ "$(id -u)" = 0 ] || fail "only root can show this host's files to the machine"
    for need in "${NEEDED[@]}"; do
        PATH=$PATH:/usr/sbin:/sbin command -v "${need%%:*}" > /dev/null || missing+=("${need#*:}")
    done
    [ ${#missing[@]} -eq 0 ] || fail "programs are missing: apt-get install ${missing[*]}"
    mkdir -p "$LAB"
    if [ "$(cat "$EXTRA/tools" 2> /dev/null)" != "${TOOLS[*]}" ]; then
        # shellcheck disable=SC2046
        apt-get $(apt_options bookworm) -qq update
        unpack bookworm "$EXTRA" "${TOOLS[@]}"
        echo "${TOOLS[*]}" > "$EXTRA/tools"
    fi
    if [ ! -d "$KERNELS/$kernel/usr/lib/modules" ]; then
        case $kernel in
            6.1) suite=bookworm ;;
            6.12) suite=bookworm-backports ;;
            7.3) suite=trixie-backports ;;
            *) fail "no kernel $kernel: use 6.1, 6.12 or 7.3" ;;
        esac
        # shellcheck disable=SC2046
        apt-get $(apt_options $suite) -qq update
        case $kernel in
            6.1) packages=$(newest $suite '^linux-image-6\.1\.0-[0-9]+-amd64$') ;;
            6.12) packages=$(newest $suite '^linux-image-6\.12\.[0-9]+\+deb12-amd64$') ;;
            7.3) modules=$(newest $suite '^linux-modules-7\.3\.[0-9]+\+deb13-amd64$')
                packages="$modules ${modules/modules/binary}" ;;
        esac
        echo "machine.sh: $packages" >&2
        # shellcheck disable=SC2086
        unpack $suite "$KERNELS/$kernel" $packages
        kmod depmod -b "$KERNELS/$kernel/usr" "$(version_of "$kernel")" 2> /dev/null
    fi
    make_initramfs "$kernel"
}

run() {  # KERNEL OUT SCRIPT [ARGUMENT]...
    local kernel=$1 out=$2 image work status=0
    shift 2
    image=$(image_of "$kernel")
    work=$(mktemp -d "$LAB/run.XXXXXX")
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    printf '%q ' bash "$@" > "$work/command"
    cp "$HERE/guest-main.sh" "$work/main"
    truncate -s 1G "$work/disk"
    local arguments=(
        -nodefaults -no-user-config -display none -no-reboot -monitor none
        -accel tcg,thread=multi,tb-size=512 -cpu max,avx2=off -machine q35 -smp 2 -m 2G -rtc base=utc
        -kernel "$image" -initrd "$KERNELS/$kernel/initramfs.gz"
        -append "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable labmodules=$KERNELS/$kernel/usr/lib/modules"
        -serial "file:$work/console"
        -chardev stdio,id=out,signal=off -device virtio-serial-pci -device virtconsole,chardev=out
        -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap
        -device virtio-9p-pci,fsdev=root,mount_tag=root
        -fsdev "local,id=extra,path=$EXTRA,security_model=none,readonly=on"
        -device virtio-9p-pci,fsdev=extra,mount_tag=extra
        -fsdev "local,id=work,path=$work,security_model=none"
        -device virtio-9p-pci,fsdev=work,mount_tag=work
        -fsdev "local,id=out,path=$out,security_model=none"
        -device virtio-9p-pci,fsdev=out,mount_tag=out
        -drive "if=none,id=disk,file=$work/disk,format=raw,cache=unsafe" -device virtio-blk-pci,drive=disk
    )
    exec 9> "$LAB/lock-$kernel"
    flock -w 1800 9 || fail "another machine with this kernel is running"
    timeout --foreground "${TIMEOUT:-1800}" nice qemu-system-x86_64 "${arguments[@]}" \
        < /dev/null 2> "$work/qemu" 9>&- || status=$?
    if [ -e "$work/status" ]; then
        status=$(cat "$work/status")
    else
        [ "$status" -ne 0 ] || status=1
        echo "machine.sh: the script did not end (QEMU: $status); the console says:" >&2
        tail -n 20 "$work/qemu" "$work/console" >&2
    fi
    cp "$work/console" "$out/console.log"
    return "$status"
}

case "${1-} $#" in
    "prepare 2") prepare "$2" ;;
    "run "[4-9]*|"run "[1-9][0-9]*) shift; run "$@" ;;
    *) fail "usage: machine.sh prepare KERNEL | machine.sh run KERNEL OUT SCRIPT [ARGUMENT]..." ;;
esac
