#!/bin/sh
# Installs what `make check` and `make demo` need and this machine lacks, on
# Debian 12 with Go: packages, the kernel and initramfs of the guests that QEMU
# boots, and virtqemud. Arguments are further packages that are wanted. Quiet when
# nothing is to do. Safe to run again, and twice at once.
set -eu

cd "$(dirname "$0")/.."
cache=$PWD/.cache
guest=$cache/guest
meta=linux-image-cloud-amd64

# Programs of the tests, the demo, the linters and the benchmarks. dnsmasq-base,
# dbus-daemon, dhcpcd-base and libvirt-daemon are the programs alone; cockpit,
# firewalld and unbound are services, which stay off.
packages='ansible bind9-dnsutils busybox-static ca-certificates chromium cockpit-bridge cockpit-system
	cockpit-ws cpio curl dbus-daemon dnsperf
	dhcpcd-base dnsmasq-base dropbear-bin ethtool firewalld gcc git iperf3 iproute2 ipxe ipxe-qemu
	iptables iputils-ping isc-dhcp-client kea-admin libc6-dev libnss-libvirt
	libvirt-clients libvirt-daemon libxml2-utils man-db mandoc ndisc6 nftables ovmf polkitd procps
	python3-dbus python3-libvirt python3-lxml qemu-system-x86 shellcheck strace systemd tcpdump tmux udhcpc
	unbound xz-utils'

# What virtqemud is built with.
builders='gcc libc6-dev libglib2.0-dev libgnutls28-dev libnl-3-dev libnl-route-3-dev libtirpc-dev libxml2-dev libxml2-utils
	libyajl-dev make meson ninja-build perl pkg-config python3 rpcsvc-proto xsltproc xz-utils'

# Modules of the guest, in the order in which they can be loaded.
modules='failover net_failover virtio_ring virtio virtio_pci_modern_dev
	virtio_pci_legacy_dev virtio_pci virtio_net'

say() { printf 'deps: %s\n' "$*"; }

die() {
	printf 'deps: %s\n' "$*" >&2
	exit 1
}

# missing prints those of its arguments that dpkg does not know as installed.
missing() {
	installed=" $(dpkg-query -W -f '${db:Status-Status}:${Package}\n' "$@" 2>/dev/null |
		sed -n 's/^installed://p' | tr '\n' ' ')"
	for package in "$@"; do
		case $installed in
		*" $package "*) ;;
		*) printf ' %s' "$package" ;;
		esac
	done
}

apt() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Sandbox::User=root "$@" >"$cache/apt.log" 2>&1 </dev/null || {
		cat "$cache/apt.log" >&2
		die "apt-get $1 failed"
	}
}

updated=
update() {
	[ -z "$updated" ] || return 0
	[ "$(id -u)" = 0 ] || die "something is missing on this machine: run this as root"
	say "reading the package lists"
	apt update
	updated=yes
}

# No package may start a service on the machine while it is installed.
guard=/usr/sbin/policy-rc.d
forbid_services() {
	[ ! -e $guard ] || return 0
	trap 'rm -f $guard' EXIT
	trap 'exit 1' HUP INT TERM
	printf '#!/bin/sh\nexit 101\n' >$guard
	chmod 755 $guard
}

install_packages() {
	# shellcheck disable=SC2046,SC2086 # lists of words
	set -- $(missing $packages "$@")
	[ $# -gt 0 ] || return 0
	update
	say "installing $*"
	(
		forbid_services
		apt install -y --no-install-recommends "$@"
	)
	for unit in cockpit-ws:cockpit.socket firewalld:firewalld.service unbound:unbound.service; do
		case " $* " in
		*" ${unit%%:*} "*) systemctl disable "${unit#*:}" >/dev/null 2>&1 || say "${unit#*:} could not be disabled" ;;
		esac
	done
}

# newest prints the package on which the meta package of the kernel depends.
newest() { apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-.*-cloud-amd64\)$/\1/p' | head -n 1; }

# fetch_kernel unpacks the kernel beside the machine's own, without installing it.
fetch_kernel() {
	[ ! -e "$guest/vmlinuz" ] || return 0
	update
	package=$(newest)
	[ -n "$package" ] || die "$meta names no kernel: is this Debian 12 on amd64?"
	say "fetching $package for the guests"
	rm -rf "$guest/linux" "$guest/deb"
	mkdir -p "$guest/linux" "$guest/deb"
	(cd "$guest/deb" && apt download "$package")
	dpkg -x "$guest"/deb/*.deb "$guest/linux"
	rm -rf "$guest/deb"
	ln -sfn "linux/boot/vmlinuz-${package#linux-image-}" "$guest/vmlinuz"
}

# fetch_prometheus unpacks Prometheus and its linter; the package would run a server.
fetch_prometheus() {
	[ ! -x "$cache/promtool" ] || [ ! -x "$cache/prometheus" ] || return 0
	update
	say "fetching prometheus"
	rm -rf "$cache/prometheus" "$cache/prometheus.d"
	mkdir -p "$cache/prometheus.d"
	(cd "$cache/prometheus.d" && apt download prometheus)
	dpkg -x "$cache"/prometheus.d/*.deb "$cache/prometheus.d/root"
	mv "$cache/prometheus.d/root/usr/bin/promtool" "$cache/prometheus.d/root/usr/bin/prometheus" "$cache"
	rm -rf "$cache/prometheus.d"
}

# fetch_resolved unpacks systemd-resolved; its package would take over the name
# service of the machine.
fetch_resolved() {
	[ ! -x "$cache/resolved/root/lib/systemd/systemd-resolved" ] || return 0
	update
	say "fetching systemd-resolved"
	rm -rf "$cache/resolved"
	mkdir -p "$cache/resolved"
	(cd "$cache/resolved" && apt download systemd-resolved)
	dpkg -x "$cache"/resolved/*.deb "$cache/resolved/unpacked"
	mv "$cache/resolved/unpacked" "$cache/resolved/root"
}

# fetch_networkmanager unpacks NetworkManager and the library that it needs; its package
# would take over the machine's interfaces.
fetch_networkmanager() {
	[ ! -x "$cache/networkmanager/root/usr/sbin/NetworkManager" ] || return 0
	update
	say "fetching NetworkManager"
	rm -rf "$cache/networkmanager"
	mkdir -p "$cache/networkmanager"
	(cd "$cache/networkmanager" && apt download network-manager libndp0)
	for package in "$cache"/networkmanager/*.deb; do
		dpkg -x "$package" "$cache/networkmanager/unpacked"
	done
	mv "$cache/networkmanager/unpacked" "$cache/networkmanager/root"
}

# fetch_keepalived unpacks keepalived and the libraries that it needs; its package would
# run it as a service.
fetch_keepalived() {
	[ ! -x "$cache/keepalived/root/usr/sbin/keepalived" ] || return 0
	update
	say "fetching keepalived"
	rm -rf "$cache/keepalived"
	mkdir -p "$cache/keepalived"
	(cd "$cache/keepalived" && apt download keepalived libnl-genl-3-200 libpci3 libsensors5 libsnmp40 libwrap0)
	for package in "$cache"/keepalived/*.deb; do
		dpkg -x "$package" "$cache/keepalived/unpacked"
	done
	mv "$cache/keepalived/unpacked" "$cache/keepalived/root"
}

# fetch_etcd unpacks etcd; its package would run it as a service.
fetch_etcd() {
	[ ! -x "$cache/etcd/root/usr/bin/etcd" ] || return 0
	update
	say "fetching etcd"
	rm -rf "$cache/etcd"
	mkdir -p "$cache/etcd"
	(cd "$cache/etcd" && apt download etcd-server)
	dpkg -x "$cache"/etcd/*.deb "$cache/etcd/unpacked"
	mv "$cache/etcd/unpacked" "$cache/etcd/root"
}

# fetch_bird unpacks the router BIRD and the library that it needs; its package would run it
# as a service.
fetch_bird() {
	[ ! -x "$cache/bird/root/usr/sbin/bird" ] || return 0
	update
	say "fetching BIRD"
	rm -rf "$cache/bird"
	mkdir -p "$cache/bird"
	(cd "$cache/bird" && apt download bird2 libssh-gcrypt-4)
	for package in "$cache"/bird/*.deb; do
		dpkg -x "$package" "$cache/bird/unpacked"
	done
	mv "$cache/bird/unpacked" "$cache/bird/root"
}

# build_virtqemud builds the daemon once for each version of libvirt.
build_virtqemud() {
	version=$(dpkg-query -W -f '${Version}' libvirt0)
	want="$version $(sha256sum <test/virtqemud.sh)"
	[ ! -x "$cache/virtqemud/virtqemud" ] || [ "$want" != "$(cat "$cache/virtqemud/inputs" 2>/dev/null)" ] || return 0
	# shellcheck disable=SC2086 # a list of words
	install_packages $builders
	say "building virtqemud of libvirt $version"
	sh test/virtqemud.sh "$version" "$cache/virtqemud/virtqemud" >"$cache/virtqemud.log" 2>&1 || {
		tail -n 50 "$cache/virtqemud.log" >&2
		die "virtqemud can't be built"
	}
	echo "$want" >"$cache/virtqemud/inputs"
}

# add_module copies a module of the guest's kernel into the tree $1 and names it
# in the list of what the guest loads.
add_module() {
	file=$(find "$guest/linux/lib/modules" -name "$2.ko" -o -name "$2.ko.xz" | head -n 1)
	case $file in
	*.ko) cp "$file" "$1/modules/$2.ko" ;;
	*.ko.xz) xz -dc "$file" >"$1/modules/$2.ko" ;;
	*) die "the kernel of the guests has no module $2" ;;
	esac
	echo "$2" >>"$1/modules/order"
}

# inputs prints a digest of all that the initramfs is made of.
inputs() {
	{
		readlink "$guest/vmlinuz"
		echo "$modules"
		cat /bin/busybox test/guest/*.sh
	} | sha256sum
}

build_initramfs() {
	want=$(inputs)
	[ ! -e "$guest/initramfs.gz" ] || [ "$want" != "$(cat "$guest/inputs" 2>/dev/null)" ] || return 0
	say "packing the initramfs of the guests"
	root=$(mktemp -d "$guest/root.XXXXXX")
	mkdir -p "$root/bin" "$root/dev" "$root/etc" "$root/modules" "$root/proc" "$root/run" "$root/sys" "$root/tmp"
	cp /bin/busybox "$root/bin/busybox"
	install -m 755 test/guest/init.sh "$root/init"
	install -m 755 test/guest/udhcpc.sh "$root/"
	for module in $modules; do add_module "$root" "$module"; done
	(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0 | gzip -n) >"$guest/initramfs.tmp"
	mv "$guest/initramfs.tmp" "$guest/initramfs.gz"
	echo "$want" >"$guest/inputs"
	rm -rf "$root"
}

[ "$(dpkg --print-architecture 2>/dev/null)" = amd64 ] || die "the guests need Debian on amd64"
mkdir -p "$guest"
exec 9>"$cache/deps.lock"
flock 9
# Node.js may be there from elsewhere, with an npm of its own beside which Debian's
# can't be installed.
command -v npm >/dev/null || packages="$packages nodejs npm"
install_packages "$@"
fetch_kernel
fetch_prometheus
fetch_resolved
fetch_networkmanager
fetch_keepalived
fetch_etcd
fetch_bird
build_virtqemud
build_initramfs
