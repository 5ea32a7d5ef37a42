#!/bin/busybox sh
# shellcheck shell=dash
#
# The first process of a guest. It brings eth0 up, asks for an address and then
# does what the serial console says, line by line. A line is "TOKEN COMMAND";
# the command's output is followed by "GUEST done TOKEN STATUS". Other lines
# that begin with GUEST are events, with the uptime in seconds at which they
# happened.
#
# Kernel command line: vnet.name=NAME is the host name, which is sent to the
# DHCP server; vnet.dhcp=off leaves eth0 up without an address.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
stty -echo -onlcr </dev/console

while read -r module; do insmod "/modules/$module.ko"; done </modules/order

uptime() { cut -d' ' -f1 /proc/uptime; }

name=guest dhcp=on
read -r cmdline </proc/cmdline
for word in $cmdline; do
	case $word in
	vnet.name=*) name=${word#*=} ;;
	vnet.dhcp=*) dhcp=${word#*=} ;;
	esac
done
hostname "$name"
echo "127.0.0.1 localhost" >/etc/hosts
ip link set lo up

if [ -e /sys/class/net/eth0 ]; then
	ip link set eth0 up
	while [ "$(cat /sys/class/net/eth0/carrier)" != 1 ]; do usleep 10000; done
	echo "GUEST link-up $(uptime)"
	[ "$dhcp" != on ] || udhcpc -f -i eth0 -x "hostname:$name" -s /udhcpc.sh -t 5 -T 1 -A 1 >/tmp/udhcpc.log 2>&1 &
fi

echo "GUEST ready $(uptime)"
while read -r token command; do
	sh -c "$command" </dev/null 2>&1
	echo "GUEST done $token $?"
done
