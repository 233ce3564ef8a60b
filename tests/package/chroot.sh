#!/usr/bin/env bash
# Runs README.md's blocks in a minimal Debian, as root, where nothing is there that they do not
# install themselves. A machine that people work on hides what is missing.
#
#   debootstrap --variant=minbase bookworm ROOTFS
#   tests/package/chroot.sh ROOTFS [NAME=VALUE...]
#
# HEAD is put into ROOTFS/root/vfiohost. NAME=VALUE: environment that apt and pip need on this
# network, such as a proxy or a certificate that lies in ROOTFS; nothing else is passed on.
set -euo pipefail

rootfs=$(realpath "$1")
shift
repo=$(cd "$(dirname "$0")/../.." && pwd)

mountpoint -q "$rootfs/proc" || {
    mount -t proc proc "$rootfs/proc"
    trap 'umount "$rootfs/proc"' EXIT
}
cp -L /etc/resolv.conf "$rootfs/etc/resolv.conf"

for block in try test lab; do
    printf '\n=== README.md: %s\n' "$block"
    if [ "$block" != lab ]; then # that goes on where `test` ended
        rm -rf "$rootfs/root/vfiohost"
        mkdir "$rootfs/root/vfiohost"
        git -C "$repo" archive HEAD | tar -x -C "$rootfs/root/vfiohost"
    fi
    awk -v mark="<!-- run: $block -->" '
        $0 == mark { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside
    ' "$repo/README.md" >"$rootfs/root/$block.sh"
    [ -s "$rootfs/root/$block.sh" ] || { echo "README.md has no block '$block'"; exit 1; }
    chroot "$rootfs" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@" \
        bash -euxo pipefail -c "cd /root/vfiohost && . /root/$block.sh" </dev/null
done
