#!/bin/sh
# Builds libvirt's virtqemud, which Debian's packages lack, from Debian's own source
# package: the daemon alone, which runs on the libvirt that is installed, its QEMU
# driver included. Arguments: the version of the package libvirt0, and the file to
# write.
set -eu

version=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# sources turns apt's list of binary packages into one of source packages.
sources() {
	mkdir -p "$work/sources.list.d" "$work/lists/partial" "$work/cache/archives/partial"
	eval "$(apt-config shell list Dir::Etc::sourcelist/f parts Dir::Etc::sourceparts/d)"
	# shellcheck disable=SC2154 # of apt-config
	for file in "$list" "$parts"/*.list "$parts"/*.sources; do
		[ -e "$file" ] || continue
		case $file in
		*.sources) sed 's/^Types:.*/Types: deb-src/' "$file" ;;
		*) sed -n 's/^[[:space:]]*deb\(-src\)\{0,1\}\([[:space:]]\)/deb-src\2/p' "$file" ;;
		esac >"$work/sources.list.d/${file##*/}"
	done
	cat >"$work/apt.conf" <<-END
		Dir::Etc::sourcelist "/dev/null";
		Dir::Etc::sourceparts "$work/sources.list.d";
		Dir::State::lists "$work/lists";
		Dir::Cache "$work/cache";
		APT::Sandbox::User "root";
	END
}

# fetch unpacks the original sources, which are those of every revision of Debian's.
fetch() {
	export APT_CONFIG="$work/apt.conf"
	# A source without source packages is no fault.
	apt-get -q update || :
	revision=$(apt-cache showsrc --only-source libvirt | sed -n 's/^Version: //p' | grep -F -x "$version") ||
		revision=$(apt-cache showsrc --only-source libvirt | sed -n 's/^Version: //p' | grep -F "${version%-*}-" | head -n 1)
	(cd "$work" && apt-get -q source --download-only --tar-only "libvirt=$revision")
	mkdir "$work/libvirt"
	tar -C "$work/libvirt" --strip-components=1 -xf "$work"/libvirt_*.orig.tar.*
}

# targets prints what ninja makes whose line in its list matches.
targets() { ninja -C "$work/build" -t targets all | sed -n "s!^\($1\): .*!\1!p"; }

# build compiles what is the daemon's alone, and links that with Debian's libraries,
# whose private symbols are those of the same version.
build() {
	meson setup "$work/build" "$work/libvirt" --prefix=/usr --sysconfdir=/etc --localstatedir=/var \
		-Drunstatedir=/run -Dsystem=true -Dauto_features=disabled -Ddocs=disabled -Dtests=disabled \
		-Ddriver_remote=enabled -Ddriver_libvirtd=enabled -Ddriver_qemu=enabled -Dlibnl=enabled -Dyajl=enabled
	admin=src/admin/libvirt_admin_driver.a
	# shellcheck disable=SC2046 # a list of words
	ninja -C "$work/build" $(targets 'src/\(access\|admin\|remote\|rpc\)/[^:]*\.h')
	# shellcheck disable=SC2046
	ninja -C "$work/build" $(targets 'src/virtqemud\.p/[^:]*\.o') $admin
	# shellcheck disable=SC2046
	cc -o "$work/virtqemud" "$work"/build/src/virtqemud.p/*.o -Wl,-export-dynamic \
		-Wl,--start-group "$work/build/$admin" -l:libvirt.so.0 -l:libvirt-lxc.so.0 -l:libvirt-qemu.so.0 -Wl,--end-group \
		$(pkg-config --libs glib-2.0 gio-2.0 gobject-2.0 gnutls libtirpc libxml-2.0)
}

sources
fetch
build
mkdir -p "$(dirname "$out")"
mv "$work/virtqemud" "$out"
