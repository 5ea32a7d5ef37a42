#!/bin/sh
# Called by udhcpc, which sets $ip: prints the address that the guest was given.
[ "$1" != bound ] || echo "leased ${ip:?}"
