#!/bin/sh
# Makes Debian packages in dist/: of what `make install` put below dist/root/vnetd the
# packages vnetd, and vnetd-qemu with what QEMU runs; with the argument vnetd-cockpit that
# package, of what `make install-cockpit` put below dist/root/vnetd-cockpit. The same commit
# gives the same bytes. Needs NFPM and GO in the environment; DEB_VERSION is another version.
set -eu

cd "$(dirname "$0")/.."
DEB_VERSION=${DEB_VERSION:-$(sh packaging/version.sh)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
GOARCH=$("$GO" env GOARCH)
export DEB_VERSION SOURCE_DATE_EPOCH GOARCH
ROOT=dist/root

# document puts what Debian wants of each package into its tree.
document() {
	doc=$ROOT/$1/usr/share/doc/$1
	mkdir -p "$doc" "$ROOT/$1/usr/share/lintian/overrides"
	cp packaging/copyright "$doc/copyright"
	cp "packaging/$1.lintian-overrides" "$ROOT/$1/usr/share/lintian/overrides/$1"
	printf '%s (%s) stable; urgency=medium\n\n  * See CHANGELOG.md of vnetd.\n\n -- vnetd maintainers <maintainers@vnetd.org>  %s\n' \
		"$1" "$DEB_VERSION" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$doc/changelog.gz"
}

# move takes a file from vnetd's tree to vnetd-qemu's.
move() {
	mkdir -p "$ROOT/vnetd-qemu/$(dirname "$1")"
	mv "$ROOT/vnetd/$1" "$ROOT/vnetd-qemu/$1"
}

# daemon lays out the packages of what the programs are.
daemon() {
	move usr/libexec/vnetd/vnet-bridge-helper
	move usr/share/man/man8/vnet-bridge-helper.8
	mv "$ROOT/vnetd/etc/vnetd/vnetd.toml" "$ROOT/vnetd.toml"
	rm -r "$ROOT/vnetd/etc"
	for package in vnetd vnetd-qemu; do document $package; done
	cp README.md SECURITY.md docs/*.md "$ROOT/vnetd/usr/share/doc/vnetd/"
	gzip -9n <CHANGELOG.md >"$ROOT/vnetd/usr/share/doc/vnetd/CHANGELOG.md.gz"
	sh packaging/licences.sh | gzip -9n >"$ROOT/vnetd/usr/share/doc/vnetd/third-party-licences.gz"
	find "$ROOT" -path '*/man/*' -name '*.[1-8]' -exec gzip -9n {} +
}

# page lays out the package of the page for Cockpit.
page() {
	document vnetd-cockpit
	gzip -9n <"$ROOT/vnetd-cockpit/usr/share/cockpit/vnetd/licences.txt" >"$ROOT/vnetd-cockpit/usr/share/doc/vnetd-cockpit/third-party-licences.gz"
	rm "$ROOT/vnetd-cockpit/usr/share/cockpit/vnetd/licences.txt"
}

[ $# -gt 0 ] || set -- vnetd vnetd-qemu
case $1 in
vnetd-cockpit) page ;;
*) daemon ;;
esac
find "$ROOT" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

for package in "$@"; do
	case $package in
	vnetd-cockpit) arch=all ;;
	*) arch=$GOARCH ;;
	esac
	"$NFPM" package --config "packaging/$package.yaml" --packager deb \
		--target "dist/${package}_${DEB_VERSION}_$arch.deb"
done
rm -r "$ROOT"
