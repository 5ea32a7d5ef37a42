#!/bin/sh
# Runs on the machine, once before a reboot and once after it. Each step prints
# "STEP name: ok", or its output and "STEP name: FAILED".
set -u

cd /root/e2e || exit
export LC_ALL=C DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin
helper=/usr/lib/qemu/qemu-bridge-helper

# step runs a function and tells how it went. The function's commands must all
# succeed.
step() {
	(
		set -eu
		"$1"
	) >/tmp/step.log 2>&1 </dev/null
	status=$?
	if [ $status = 0 ]; then
		echo "STEP $1: ok"
	else
		sed 's/^/| /' /tmp/step.log
		echo "STEP $1: FAILED with $status"
		systemctl status --no-pager --full vnetd.service 2>&1 | sed 's/^/| /'
		journalctl --no-pager -u vnetd.service -n 30 2>&1 | sed 's/^/| /'
	fi
}

# say is what a step leaves in the transcript.
say() { echo "SAW $*" >/dev/ttyS0; }

# within COMMAND... tries for 60 seconds until it succeeds.
within() {
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 120 ] || {
			echo "not within a minute: $*"
			return 1
		}
		sleep 0.5
	done
}

# expect TEXT COMMAND... wants the text in what the command prints.
expect() {
	text=$1
	shift
	output=$("$@" 2>&1) || true
	case $output in
	*"$text"*) ;;
	*)
		printf '%s printed, want "%s" in it:\n%s\n' "$*" "$text" "$output"
		return 1
		;;
	esac
}

# refuse COMMAND... wants it to fail.
refuse() {
	! "$@" || {
		echo "should have failed: $*"
		return 1
	}
}

# absent TEXT COMMAND... wants the text not to be in what the command prints.
absent() {
	text=$1
	shift
	output=$("$@" 2>&1) || true
	case $output in
	*"$text"*)
		printf '%s printed "%s":\n%s\n' "$*" "$text" "$output"
		return 1
		;;
	esac
}

# rules prints the host's rules, of whatever vnetd writes them with: iptables where its
# programs are. Words that are in rules of networks and no others are in $ours.
if command -v iptables-save >/dev/null; then
	ours=LIBVIRT_
	rules() { iptables-save && ip6tables-save; }
else
	ours='table ip vnetd'
	rules() { nft list ruleset; }
fi

main_pid() { systemctl show -P MainPID vnetd.service; }
in_guest() { ip netns exec guest "$@"; }

# plug makes a guest: a network namespace with a card on virbr0.
plug() {
	ip netns add guest
	ip link add tap-guest type veth peer name eth0 netns guest
	ip -n guest link set lo up
	ip -n guest link set eth0 address 52:54:00:12:34:56 up
	ip link set tap-guest master virbr0 up
}

# lease has the guest ask for an address and prints it.
lease() {
	in_guest busybox udhcpc -i eth0 -n -q -t 20 -T 1 -x hostname:web1 -s /root/e2e/udhcpc.sh 2>&1 |
		sed -n 's/^leased //p'
}

# lease_once is lease, but asks only once.
lease_once() {
	in_guest busybox udhcpc -i eth0 -n -q -t 1 -T 120 -x hostname:web1 -s /root/e2e/udhcpc.sh 2>&1 |
		sed -n 's/^leased //p'
}

# answered prints how many answers a log of ping has, and fails if one is missing
# before the last. Two processors may bring them out of order.
answered() {
	sed -n 's/.* seq=\([0-9]*\) .*/\1/p' "$1" | sort -n | awk '
		$1 != n { print "no answer to ping " n > "/dev/stderr"; bad = 1; exit }
		{ n++ }
		END { if (bad || n < 20) exit 1; print n }' || {
		cat "$1" >&2
		return 1
	}
}

# unbroken CHANGE... pings the guest ten times a second while CHANGE is done and
# wants every answer.
unbroken() {
	ip netns exec guest busybox ping -i 0.1 192.168.122.1 >/tmp/ping.log &
	ping=$!
	sleep 2
	"$@"
	sleep 2
	kill -INT $ping
	wait $ping || true
	answers=$(answered /tmp/ping.log)
	say "while $*: $answers pings, all answered"
}

# readme prints the first lines of shell of a section of README.md, as a newcomer types them.
readme() {
	awk -v heading="## $1" '
		/^## / { here = $0 == heading }
		here && shell && /^```/ { exit }
		here && shell { print }
		here && /^```sh/ { shell = 1 }' README.md
}

install_packages() {
	mkdir -p /usr/lib/qemu dist
	echo 'QEMU own' >$helper
	for package in vnetd vnetd-qemu; do cp ${package}_1.deb dist/${package}_1_amd64.deb; done
	readme Install | grep '^apt install ' | sh -ex
	expect disabled systemctl is-enabled vnetd.service
	expect inactive systemctl is-active vnetd.service
	expect vnetd:vnetd stat -c %U:%G /etc/vnetd/networks/default.xml
	expect /etc/vnetd/networks/default.xml readlink -f /etc/vnetd/networks/autostart/default.xml
	absent 40b7c068-9791-4466-bfa6-77ca0bedb2e4 cat /etc/vnetd/networks/default.xml
	expect /usr/libexec/vnetd/vnet-bridge-helper readlink -f $helper
	expect 'QEMU own' cat $helper.distrib
}

enable_service() {
	readme Install | grep '^systemctl enable ' | sh -ex
	expect active systemctl is-active vnetd.service
	expect virbr0 vnetctl list
	expect 192.168.122.1/24 ip -4 addr show dev virbr0
	say "$(systemctl show -P StatusText vnetd.service)"
}

# follow_readme does what README.md says of each day, but for QEMU, which is not here.
follow_readme() {
	readme 'Daily use' | sed '/^qemu-system/,/[^\\]$/d' >daily.sh
	[ "$(grep -c '^vnetctl ' daily.sh)" -ge 10 ]
	sh -ex daily.sh
	expect 'active' vnetctl list
	vnetctl stop web
	vnetctl undefine web
}

# run_unprivileged: own user, three capabilities, seccomp.
run_unprivileged() {
	expect vnetd ps -o user= -p "$(main_pid)"
	expect 'CapEff:	0000000000003400' cat "/proc/$(main_pid)/status"
	expect 'CapBnd:	0000000000003400' cat "/proc/$(main_pid)/status"
	expect 'Seccomp:	2' cat "/proc/$(main_pid)/status"
	expect 'NoNewPrivs:	1' cat "/proc/$(main_pid)/status"
	absent / find /etc/vnetd/networks /run/vnetd /var/lib/vnetd ! -user vnetd
}

serve_guest() {
	plug
	address=$(lease)
	expect 192.168.122. echo "$address"
	echo "$address" >/root/e2e/address
	in_guest ip addr add "$address/24" dev eth0
	expect "$address" in_guest busybox nslookup web1 192.168.122.1
	in_guest busybox ping -c 3 192.168.122.1
	say "the guest has a lease"
}

hold_port() {
	systemd-run -q --unit=port vnetctl port create default --name held --ifname vnet7
	within ip link show dev vnet7
	expect vnet7 vnetctl port list
}

restart_service() {
	old=$(main_pid)
	unbroken systemctl restart vnetd.service
	[ "$old" != "$(main_pid)" ]
	expect vnet7 vnetctl port list
	expect "$(cat address)" vnetctl leases default
	expect "$(cat address)" lease
}

# under_load does CHANGE... to vnetd while the guest asks for names, and has it ask for an
# address just once, as soon as the old vnetd is gone. Of 30,000 queries as many may be lost
# as vnetd may have read and not answered: MOST.
under_load() {
	most=$1
	shift
	sysctl -q -w net.core.rmem_max=16777216
	echo "web1 A" >queries
	# 100,000 may wait for an answer, each for two minutes.
	in_guest dnsperf -s 192.168.122.1 -d queries -Q 1000 -q 100000 -t 120 -l 30 -b 8192 >/tmp/dnsperf.log 2>&1 &
	load=$!
	sleep 5
	old=$(main_pid)
	"$@"
	while [ -e "/proc/$old" ]; do sleep 0.1; done
	state=$(systemctl is-active vnetd.service) || true
	expect "$(cat address)" lease_once
	wait $load || true
	within systemctl is-active vnetd.service
	[ "$(sed -nE 's/^ *Queries lost: *([0-9]+) .*/\1/p' /tmp/dnsperf.log)" -le "$most" ]
	expect 'NOERROR' cat /tmp/dnsperf.log
	absent 'SERVFAIL' cat /tmp/dnsperf.log
	say "under load, $*: $(sed -nE 's/^ *(Queries (sent|completed|lost|per second)): */\1 /p' /tmp/dnsperf.log | tr '\n' ',') an address asked for while vnetd was $state"
}

# lose_nothing restarts under load.
lose_nothing() { under_load 0 systemctl --no-block restart vnetd.service; }

# lose_nothing_by_crash: the sockets are in systemd's store all the time, each once.
lose_nothing_by_crash() {
	stored=$(systemctl show -P NFileDescriptorStore vnetd.service)
	[ "$stored" -ge 3 ] # of DHCP, and of DNS over both protocols
	under_load 40 kill -KILL "$(main_pid)"
	within sh -c "[ \"\$(systemctl show -P NFileDescriptorStore vnetd.service)\" = $stored ]"
	say "systemd keeps $stored descriptors"
}

reload_service() {
	umask 077
	cp lab.xml /etc/vnetd/networks/lab.xml
	umask 022
	old=$(main_pid)
	unbroken systemctl reload vnetd.service
	[ "$old" = "$(main_pid)" ]
	expect lab vnetctl list
	vnetctl start lab
	echo '<network>' >/etc/vnetd/networks/broken.xml
	refuse systemctl reload vnetd.service
	rm /etc/vnetd/networks/broken.xml
	systemctl reload vnetd.service
	kill -HUP "$old"
	within systemctl is-active vnetd.service
}

# explain_log: dpkg has the journal read the catalogue.
explain_log() { expect 'Its bridge virbr0 and its firewall rules are there' journalctl --no-pager -x -u vnetd.service; }

# resolve_names: polkit lets the user vnetd tell resolved. Emulated, the first
# answers take longer than vnetd waits: it tries again when resolved starts again.
resolve_names() {
	systemctl start polkit.service
	n=0
	until expect 10.77.0.1 resolvectl --no-pager dns virbr7; do
		n=$((n + 1))
		[ $n -lt 10 ]
		systemctl restart systemd-resolved.service
		sleep 10
	done
	expect lab.test resolvectl --no-pager domain virbr7
}

upgrade_packages() {
	unbroken apt-get install -y --no-install-recommends ./vnetd_2.deb ./vnetd-qemu_2.deb
	expect 'Version: 99.0' dpkg -s vnetd
	expect enabled systemctl is-enabled vnetd.service
	expect active systemctl is-active vnetd.service
	expect vnet7 vnetctl port list
	expect "$(cat address)" lease
	expect virbr0 virsh -c network:///system net-info default
}

survive_watchdog() {
	old=$(main_pid)
	kill -STOP "$old"
	within sh -c "journalctl -u vnetd.service | grep -q 'Watchdog timeout'"
	within sh -c "[ \"\$(systemctl show -P MainPID vnetd.service)\" != $old ] && systemctl is-active vnetd.service"
	expect vnet7 vnetctl port list
	expect "$(cat address)" lease
	say "restarts: $(systemctl show -P NRestarts vnetd.service)"
}

survive_crash() {
	old=$(main_pid)
	kill -KILL "$old"
	within sh -c "[ \"\$(systemctl show -P MainPID vnetd.service)\" != $old ] && systemctl is-active vnetd.service"
	expect vnet7 vnetctl port list
}

# admit_users: polkit knows what members of the group vnet may.
admit_users() {
	useradd --no-create-home alice
	useradd --no-create-home --groups vnet bob
	runuser -u alice -- vnetctl list
	refuse runuser -u alice -- vnetctl stop lab
	runuser -u bob -- vnetctl stop lab
	runuser -u bob -- vnetctl start lab
}

# plug_macvtap: udev gives the device node, which is root's, to vnetd, and the unit lets
# vnetd open it.
plug_macvtap() {
	ip link add cable0 up type veth peer name cable1
	ip link set cable1 up
	printf "<network><name>direct</name><forward mode='bridge' dev='cable0'/></network>" | vnetctl define -
	vnetctl start direct
	systemd-run -q --unit=macvtap vnetctl port create direct --ifname card0
	within expect cable0 vnetctl port show card0
	systemctl restart vnetd.service
	expect cable0 vnetctl port show card0
	systemctl stop macvtap.service
	within refuse ip link show dev card0
	vnetctl stop direct
	vnetctl undefine direct
	ip link del cable0
}

# answer_virsh: systemd makes the sockets that vnetd, not being root, can't make.
answer_virsh() {
	systemctl stop vnetd.service
	systemctl enable --now vnetd-libvirt.socket
	systemctl start vnetd.service
	expect virbr0 virsh -c network:///system net-info default
	virsh -c network:///system net-destroy lab
	runuser -u bob -- virsh -c network:///system net-start lab
	refuse runuser -u alice -- virsh -c network:///system net-destroy lab
	runuser -u alice -- virsh -r -c network:///system net-list
}

# leave_libvirt makes what a libvirt that has ended leaves: a bridge with its dnsmasq,
# and files that root alone can read.
leave_libvirt() {
	mkdir -p /etc/libvirt/qemu/networks/autostart /run/libvirt/network /var/lib/libvirt/dnsmasq
	cat >old.xml <<-XML
		<network><name>old</name><uuid>9d1b1f0e-5f43-4c3e-8f55-6a6a2f0f6a11</uuid><forward mode='nat'/>
		<bridge name='virbr9'/><mac address='52:54:00:09:09:09'/>
		<ip address='10.79.0.1' netmask='255.255.255.0'><dhcp><range start='10.79.0.2' end='10.79.0.254'/></dhcp></ip></network>
	XML
	install -m 600 old.xml /etc/libvirt/qemu/networks/old.xml
	printf '<networkstatus>%s</networkstatus>' "$(cat old.xml)" >/run/libvirt/network/old.xml
	chmod 600 /run/libvirt/network/old.xml
	echo '[{"ip-address": "10.79.0.79", "mac-address": "52:54:00:00:79:79", "hostname": "oldie", "expiry-time": 0}]' \
		>/var/lib/libvirt/dnsmasq/virbr9.status
	ip link add virbr9 address 52:54:00:09:09:09 type bridge
	ip addr add 10.79.0.1/24 dev virbr9
	ip link set virbr9 up
	cat >/var/lib/libvirt/dnsmasq/old.conf <<-CONF
		pid-file=/run/libvirt/network/old.pid
		except-interface=lo
		bind-dynamic
		interface=virbr9
		dhcp-range=10.79.0.2,10.79.0.254
	CONF
	dnsmasq --conf-file=/var/lib/libvirt/dnsmasq/old.conf --leasefile-ro
}

# import_libvirt: the daemon, which may do none of that itself, has the service take
# over libvirt's networks, once.
import_libvirt() {
	leave_libvirt
	sed -i 's/^import = false/import = true/' /etc/vnetd/vnetd.toml
	unbroken systemctl restart vnetd.service
	refuse pgrep dnsmasq
	expect active vnetctl status old
	expect oldie vnetctl leases old
	expect "$ours" rules
	expect '10.79.0.0/24' rules
	[ ! -e /run/libvirt/network/old.xml ]
	vnetctl stop old
	vnetctl undefine old
	systemctl restart vnetd.service
	absent old vnetctl list
	sed -i 's/^import = true/import = false/' /etc/vnetd/vnetd.toml
}

# stop_and_call: networks outlive the daemon, and a call does not start one that was stopped.
stop_and_call() {
	systemctl stop vnetd-libvirt.socket
	unbroken systemctl stop vnetd.service
	expect active systemctl is-active port.service
	expect inactive systemctl is-active vnetd.service
	refuse vnetctl list
	expect inactive systemctl is-active vnetd.service
	systemctl start vnetd.service
	expect default vnetctl list
}

serve_after_reboot() {
	within systemctl is-active vnetd.service
	expect virbr0 vnetctl list
	expect "$(cat address)" vnetctl leases default
	plug
	expect "$(cat address)" lease
	in_guest ip addr add "$(cat address)/24" dev eth0
	in_guest busybox ping -c 3 192.168.122.1
	say "the guest has its lease again"
}

# serve_legacy: the drop-in that docs/troubleshooting.md has for iptables-legacy, and
# the way back.
serve_legacy() {
	drop_in=/etc/systemd/system/vnetd.service.d
	vnetctl stop default
	for family in iptables ip6tables; do update-alternatives --set $family /usr/sbin/$family-legacy; done
	install -D -m 644 -t $drop_in /usr/share/vnetd/iptables-legacy.conf
	systemctl daemon-reload
	systemctl restart vnetd.service
	expect root ps -o user= -p "$(main_pid)"
	vnetctl start default
	ip link set tap-guest master virbr0
	expect LIBVIRT_INP iptables-legacy-save
	expect "$(cat address)" lease
	vnetctl disable default
	vnetctl enable default
	vnetctl stop default

	for family in iptables ip6tables; do update-alternatives --auto $family; done
	rm -r $drop_in
	systemctl daemon-reload
	systemctl restart vnetd.service
	run_unprivileged
	vnetctl start default
	ip link set tap-guest master virbr0
	expect LIBVIRT_INP iptables-nft-save
	expect "$(cat address)" lease
}

remove_packages() {
	unbroken apt-get remove -y vnetd vnetd-qemu
	expect "$ours" rules
	[ -e /etc/vnetd/vnetd.toml ]
	[ -e /var/lib/vnetd/leases/journal ]
	expect 'QEMU own' cat $helper
	[ ! -e $helper.distrib ]
}

purge_packages() {
	apt-get purge -y vnetd vnetd-qemu
	refuse ip link show dev virbr0
	absent "$ours" rules
	for path in /etc/vnetd /run/vnetd /var/lib/vnetd /var/lib/vnetd-purge; do
		[ ! -e $path ]
	done
	absent vnetd find /etc/systemd /var/lib/systemd -name '*vnetd*'
}

if [ ! -e phase ]; then
	echo 2 >phase
	for each in install_packages enable_service follow_readme run_unprivileged serve_guest hold_port restart_service lose_nothing lose_nothing_by_crash \
		explain_log reload_service resolve_names admit_users plug_macvtap answer_virsh import_libvirt upgrade_packages survive_watchdog survive_crash stop_and_call; do
		step $each
	done
	sync
	systemctl --no-block reboot
else
	step serve_after_reboot
	[ ! -e /usr/sbin/iptables-legacy ] || step serve_legacy
	step remove_packages
	step purge_packages
	echo "STORY ends"
	systemctl --no-block poweroff
fi
