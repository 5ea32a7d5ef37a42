#!/bin/sh
# launch.sh NAME PORT ARGUMENT...
#
# Starts QEMU with ARGUMENTs and a card on vnetd's network default. The guest is NAME there,
# and PORT of this host leads to its SSH. All of it ends with QEMU.
set -eu
name=$1 port=$2
shift 2

# vnetctl run makes the port and becomes QEMU; this waits beside it.
{
	until vnetctl port show "$name" >/dev/null 2>&1; do
		sleep 0.2
		kill -0 $$ || exit 1
	done
	vnetctl port wait "$name" --for 2m >/dev/null
	echo "$name has an address: ssh -p $port 127.0.0.1"
} &
exec vnetctl run -n "default:name=$name,forward=$port:22" -- qemu-system-x86_64 "$@"
