#!/bin/sh
# Makes the disk and the initramfs of a virtual machine with Debian 12 and systemd
# as pid 1, for the test beside it: image.sh OUT. The packages of dist/ are put into
# /root/e2e, and the same again with a higher version. The system itself is
# bootstrapped once and kept in .cache.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
out=$1
cache=$PWD/.cache/systemd
guest=$PWD/.cache/guest
root=$cache/root
release=$(basename "$guest"/linux/lib/modules/*)

# Modules that the machine needs before it has its root file system.
early='failover net_failover virtio_ring virtio virtio_pci_modern_dev
	virtio_pci_legacy_dev virtio_pci virtio_blk'

include=busybox,dbus,dnsmasq-base,dnsperf,iproute2,iptables,kmod,libpam-systemd,libvirt-clients,polkitd,procps,systemd,systemd-resolved,systemd-sysv,udev

bootstrap() {
	[ ! -e "$cache/bootstrapped-$include" ] || return 0
	echo "image: bootstrapping Debian, once"
	rm -rf "$cache"
	mkdir -p "$cache"
	debootstrap --variant=minbase --include=$include bookworm "$root" >"$cache/debootstrap.log" 2>&1 || {
		tail "$cache/debootstrap.log" >&2
		exit 1
	}
	rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/locale/*
	touch "$cache/bootstrapped-$include"
}

# newer packs a package again under the version 99.0.
newer() {
	tree=$(mktemp -d "$cache/newer.XXXXXX")
	dpkg-deb -R dist/"$1"_*.deb "$tree/deb"
	sed -i -E 's/^Version: .*/Version: 99.0/; s/\(= [^)]*\)/(= 99.0)/' "$tree/deb/DEBIAN/control"
	grep -q . "$tree/deb/DEBIAN/conffiles" || rm "$tree/deb/DEBIAN/conffiles"
	dpkg-deb -Znone -b "$tree/deb" "$root/root/e2e/$1_2.deb" >/dev/null
	rm -rf "$tree"
}

# furnish puts into the system what this run needs.
furnish() {
	mkdir -p "$root/lib/modules" "$root/root/e2e"
	cp -a "$guest/linux/lib/modules/$release" "$root/lib/modules/"
	chroot "$root" depmod "$release"
	rm -rf "$root"/root/e2e/*
	for package in vnetd vnetd-qemu; do
		cp dist/${package}_*.deb "$root/root/e2e/${package}_1.deb"
		newer $package
	done
	cp "$here"/machine/*.sh "$here"/machine/*.xml "$root/root/e2e/"
	cp "$here/machine/e2e.service" "$root/etc/systemd/system/"
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/journald.conf.d"
	ln -sf ../e2e.service "$root/etc/systemd/system/multi-user.target.wants/e2e.service"
	printf '[Journal]\nStorage=persistent\n' >"$root/etc/systemd/journald.conf.d/e2e.conf"
	echo e2e >"$root/etc/hostname"
	echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
	# What apt-get asks for is all there; nothing is fetched.
	: >"$root/etc/apt/sources.list"
}

initramfs() {
	tree=$(mktemp -d "$cache/initramfs.XXXXXX")
	mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/modules" "$tree/new"
	cp /bin/busybox "$tree/bin/"
	for module in $early; do
		cp "$(find "$guest/linux/lib/modules" -name "$module.ko")" "$tree/modules/"
		echo "$module" >>"$tree/modules/order"
	done
	install -m 755 "$here/machine/init" "$tree/init"
	(cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 -n) >"$out/initramfs.gz"
	rm -rf "$tree"
}

# One at a time: what is in .cache may be shared by several checkouts.
mkdir -p "$PWD/.cache"
exec 9>"$PWD/.cache/systemd.lock"
flock 9
bootstrap
furnish
initramfs
rm -f "$out/disk"
mkfs.ext4 -q -F -d "$root" "$out/disk" 1500M >"$out/mkfs.log"
