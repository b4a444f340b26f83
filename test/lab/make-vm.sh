#!/usr/bin/env bash
# make-vm.sh DIR: what a small virtual machine starts from, in DIR: `vmlinuz`, `initramfs.gz`, `root/` (what its disk
# is filled with). Debian's cloud kernel, busybox, an initramfs that mounts the first disk and starts its /sbin/init.
# Needs apt-get, busybox-static, cpio, kmod. About 5 s.
set -euo pipefail
dir=${1:?usage: make-vm.sh DIR}
mkdir -p "$dir/work" "$dir/root"
cd "$dir/work"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1)
[ -n "$package" ] || { echo 'make-vm.sh: no Debian cloud kernel is known here (apt-get update)' >&2; exit 1; }
apt-get download -qq "$package" 2>/dev/null
dpkg -x linux-image-*.deb kernel
version=$(ls kernel/lib/modules)
busybox depmod -b "$PWD/kernel" "$version" 2>/dev/null || depmod -b "$PWD/kernel" "$version"
cp kernel/boot/vmlinuz-* ../vmlinuz

# The initramfs: drivers for the disk and its file system, in the order in which they need each other.
mkdir -p initramfs/{bin,dev,proc,sys,mnt,lib}
cp "$(command -v busybox)" initramfs/bin/busybox
: > initramfs/modules
add() { # add MODULE: first what it needs
  local line path
  line=$(grep -E "/${1//[-_]/[-_]}\.ko:" "kernel/lib/modules/$version/modules.dep" | head -1) || true
  [ -n "$line" ] || return 0 # built into the kernel
  path=${line%%:*}
  path=${path#/lib/modules/"$version"/}
  grep -qx "$(basename "$path")" initramfs/modules && return 0
  for needed in ${line#*:}; do add "$(basename "$needed" .ko)"; done
  cp "kernel/lib/modules/$version/$path" initramfs/lib/
  basename "$path" >> initramfs/modules
}
for module in virtio_pci virtio_blk ext4 crc32c_generic; do add "$module"; done
cat > initramfs/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
while read module; do insmod /lib/$module || echo "VM: no $module"; done < /modules
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; sleep 0.2; done
if mount -t ext4 /dev/vda /mnt; then
  umount /proc /sys
  exec switch_root /mnt /sbin/init
fi
echo 'VM: the disk cannot be mounted'
poweroff -f
INIT
chmod +x initramfs/init
(cd initramfs && find . | cpio -o -H newc --quiet | gzip -1) > ../initramfs.gz

# What the disk holds: a system of its own, whose init says what it finds, works, and ends.
mkdir -p ../root/{bin,dev,proc,sys,sbin,etc,srv}
cp "$(command -v busybox)" ../root/bin/busybox
cat > ../root/sbin/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null
mount -t proc proc /proc; mount -t devtmpfs dev /dev 2>/dev/null
echo "VM: up, Linux $(uname -r)"
for file in /srv/*; do [ -f "$file" ] && echo "VM: $file: $(head -c 200 "$file")"; done
[ -f /etc/work ] && . /etc/work
sync
echo "VM: done"
mount -o remount,ro / && poweroff -f
INIT
chmod +x ../root/sbin/init
cd ..
rm -rf work
