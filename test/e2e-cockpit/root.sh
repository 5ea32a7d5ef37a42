#!/bin/sh
# Makes the root file system of a release of Debian with its Cockpit, once, for the test
# beside it: root.sh SUITE DIR. Nothing is started there.
set -eu

suite=$1
root=$2
packages='cockpit-bridge cockpit-system cockpit-ws curl iproute2 systemd'

[ ! -e "$root/made" ] || exit 0
rm -rf "$root"
mkdir -p "$root"
echo "root: bootstrapping Debian $suite with Cockpit, once"
{
	debootstrap --variant=minbase "$suite" "$root"
	# shellcheck disable=SC2086 # a list of words
	DEBIAN_FRONTEND=noninteractive chroot "$root" apt-get -qq -o APT::Sandbox::User=root install -y --no-install-recommends $packages
} >"$root.log" 2>&1 </dev/null || {
	tail -n 30 "$root.log" >&2
	exit 1
}
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
touch "$root/made"
