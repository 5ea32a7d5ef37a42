#!/bin/sh
# Makes the disk, the kernel and the initramfs of a virtual machine with Debian and systemd
# as pid 1, for the test beside it: image.sh SUITE OUT. The packages of dist/ are put into
# /root/e2e, and the same again with a higher version. The system itself is bootstrapped
# once and kept in .cache.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
suite=$1
out=$2
cache=$PWD/.cache/systemd/$suite
root=$cache/root
kernel=$cache/kernel

include=busybox,dbus,dnsmasq-base,dnsperf,iproute2,kmod,libpam-systemd,libvirt-clients,polkitd,procps,systemd,systemd-resolved,systemd-sysv,udev
# From Debian 13 on, no program of iptables is there unless it is asked for.
case $suite in
bookworm) include=$include,iptables ;;
*) include=$include,nftables ;;
esac

bootstrap() {
	[ ! -e "$cache/bootstrapped-$include" ] || return 0
	echo "image: bootstrapping Debian $suite, once"
	rm -rf "$cache"
	mkdir -p "$cache"
	debootstrap --variant=minbase --include=$include "$suite" "$root" >"$cache/debootstrap.log" 2>&1 || {
		tail "$cache/debootstrap.log" >&2
		exit 1
	}
	# systemd-resolved may have put its own in the place of this machine's.
	link=$(readlink "$root/etc/resolv.conf" || true)
	cp --remove-destination /etc/resolv.conf "$root/etc/resolv.conf"
	name=$(chroot "$root" apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p')
	chroot "$root" sh -c "cd /root && apt-get -qq -o APT::Sandbox::User=root download $name"
	[ -z "$link" ] || ln -sf "$link" "$root/etc/resolv.conf"
	dpkg-deb -x "$root"/root/linux-image-*.deb "$kernel"
	rm -rf "$root"/root/*.deb "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/locale/*
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
	release=$(basename "$kernel"/boot/vmlinuz-*)
	release=${release#vmlinuz-}
	mkdir -p "$root/lib/modules" "$root/root/e2e"
	cp -a "$(find "$kernel" -type d -path "*/lib/modules/$release")" "$root/lib/modules/"
	chroot "$root" depmod "$release"
	rm -rf "$root"/root/e2e/*
	for package in vnetd vnetd-qemu; do
		cp dist/${package}_*.deb "$root/root/e2e/${package}_1.deb"
		newer $package
	done
	cp README.md "$here"/machine/*.sh "$here"/machine/*.xml "$root/root/e2e/"
	cp "$here/machine/e2e.service" "$root/etc/systemd/system/"
	mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/etc/systemd/journald.conf.d"
	ln -sf ../e2e.service "$root/etc/systemd/system/multi-user.target.wants/e2e.service"
	printf '[Journal]\nStorage=persistent\n' >"$root/etc/systemd/journald.conf.d/e2e.conf"
	echo e2e >"$root/etc/hostname"
	echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
	# What apt-get asks for is all there; nothing is fetched.
	: >"$root/etc/apt/sources.list"
}

# initramfs holds the modules without which the machine has no root file system.
initramfs() {
	tree=$(mktemp -d "$cache/initramfs.XXXXXX")
	mkdir -p "$tree/bin" "$tree/dev" "$tree/proc" "$tree/modules" "$tree/new"
	cp /bin/busybox "$tree/bin/"
	chroot "$root" modprobe -S "$release" --show-depends -a virtio_pci virtio_blk ext4 |
		awk '$1 == "insmod" && !seen[$2]++ { print $2 }' >"$tree/modules/files"
	while read -r file; do
		name=$(basename "$file" .xz)
		file=$root$file
		case $file in
		*.xz) xz -dc "$file" >"$tree/modules/$name" ;;
		*) cp "$file" "$tree/modules/" ;;
		esac
		echo "$name" >>"$tree/modules/order"
	done <"$tree/modules/files"
	install -m 755 "$here/machine/init" "$tree/init"
	(cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 -n) >"$out/initramfs.gz"
	cp "$kernel"/boot/vmlinuz-* "$out/vmlinuz"
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
