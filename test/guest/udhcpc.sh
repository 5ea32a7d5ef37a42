#!/bin/busybox sh
# shellcheck shell=dash disable=SC2154 # udhcpc sets the variables
#
# What a guest does with its lease: address, default route and name server.
# udhcpc passes the lease in the environment.
apply() {
	ip addr flush dev "$interface"
	ip addr add "$ip/$mask" dev "$interface"
	for gateway in $router; do ip route replace default via "$gateway"; done
	: >/etc/resolv.conf.new
	[ -z "$domain" ] || echo "search $domain" >>/etc/resolv.conf.new
	for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf.new; done
	mv /etc/resolv.conf.new /etc/resolv.conf
	[ -z "$hostname" ] || hostname "$hostname"
	echo "GUEST lease $ip/$mask $(cut -d' ' -f1 /proc/uptime) event=$1 server=$serverid router=$router dns=$dns seconds=$lease" >/dev/console
}

case $1 in
bound | renew) apply "$1" ;;
deconfig) ip addr flush dev "$interface" ;;
esac
