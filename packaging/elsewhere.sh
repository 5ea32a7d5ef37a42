#!/bin/sh
# Makes packages for other systems than Debian in dist/, of what `make install` put below
# dist/root/vnetd: with the argument rpm for those of rpm, as Fedora and openSUSE, with arch
# for Arch Linux. Both packages, vnetd and vnetd-qemu, by the descriptions that Debian's have,
# at these systems' paths. The same commit gives the same bytes. Needs NFPM and GO in the
# environment; DEB_VERSION is another version.
set -eu

cd "$(dirname "$0")/.."
DEB_VERSION=${DEB_VERSION:-$(sh packaging/version.sh)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
GOARCH=$("$GO" env GOARCH)
RELEASE=1
export DEB_VERSION SOURCE_DATE_EPOCH GOARCH RELEASE
ROOT=dist/root
DESCRIPTION=dist/root/description.yaml

# shift_to takes a file or a directory of one tree to another place, in the same tree or another.
shift_to() {
	mkdir -p "$ROOT/$(dirname "$2")"
	mv "$ROOT/$1" "$ROOT/$2"
}

# paths moves what these systems have in other places than Debian.
paths() {
	shift_to vnetd/usr/share/zsh/vendor-completions vnetd/usr/share/zsh/site-functions
	shift_to vnetd/usr/share/man/man8/vnet-bridge-helper.8 vnetd-qemu/usr/share/man/man8/vnet-bridge-helper.8
	shift_to vnetd/usr/libexec/vnetd/vnet-bridge-helper vnetd-qemu/usr/libexec/vnetd/vnet-bridge-helper
	if [ "$1" = archlinux ]; then # where sbin is a link
		shift_to vnetd/usr/sbin/vnetd vnetd/usr/bin/vnetd
		rmdir "$ROOT/vnetd/usr/sbin"
		sed -i 's|/usr/sbin/vnetd|/usr/bin/vnetd|g' "$ROOT"/vnetd/usr/lib/systemd/system/*
	fi
	for package in vnetd vnetd-qemu; do
		mkdir -p "$ROOT/$package/usr/share/licenses/$package"
		cp LICENSE "$ROOT/$package/usr/share/licenses/$package/"
	done
	mv "$ROOT/vnetd/etc/vnetd/vnetd.toml" "$ROOT/vnetd.toml"
	rm -r "$ROOT/vnetd/etc"
	mkdir -p "$ROOT/vnetd/usr/share/doc/vnetd"
	cp README.md SECURITY.md CHANGELOG.md docs/*.md "$ROOT/vnetd/usr/share/doc/vnetd/"
	sh packaging/licences.sh >"$ROOT/vnetd/usr/share/licenses/vnetd/third-party"
	find "$ROOT" -path '*/man/*' -name '*.[1-8]' -exec gzip -9n {} +
	find "$ROOT" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
}

# describe prints the description of a package, with each file, and each directory that is
# vnetd's, by name in the place of the tree: directories that the system has would otherwise
# be the package's, too. An upgrade leaves a configuration that was changed.
describe() {
	awk -v package="$1" -v root="$ROOT/$1" '
		$0 ~ "src: " root "$" {
			command = "cd " root " && find . -type f -printf \"f %P\\n\" -o -path \"*/vnetd*\" -printf \"d %P\\n\" | LC_ALL=C sort"
			while ((command | getline) > 0)
				if ($1 == "f") printf "  - src: %s/%s\n    dst: /%s\n", root, $2, $2
				else printf "  - dst: /%s\n    type: dir\n", $2
			skip = 2 # the lines of the tree that follow
			next
		}
		skip > 0 { skip--; next }
		$0 ~ /^version:/ { print "release: ${RELEASE}\nlicense: Apache-2.0" } # which Debian has elsewhere
		$0 ~ /^    type: config$/ { print "    type: config|noreplace"; next }
		{ print }' "packaging/$1.yaml"
}

case $1 in
rpm) packager=rpm ;;
arch) packager=archlinux ;;
*)
	echo "elsewhere.sh: $1: want rpm or arch" >&2
	exit 2
	;;
esac
paths $packager
for package in vnetd vnetd-qemu; do
	describe $package >$DESCRIPTION
	"$NFPM" package --config $DESCRIPTION --packager $packager --target dist/
done
rm -r "$ROOT"
