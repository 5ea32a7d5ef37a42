package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// offloadXML is a network with an attribute of <vnetd:offload>.
func offloadXML(attribute string) string {
	return `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>fast</name><uuid>00000000-0000-4000-8000-000000000007</uuid><forward mode='nat'/><bridge name='virbr7'/>
  <mac address='52:54:00:00:00:07'/><ip address='192.0.2.1' netmask='255.255.255.0'/>
  <vnetd:offload ` + attribute + `/>
</network>
`
}

// TestOffloadOnDebiansKernel runs vnetd on the kernel of Debian, which has flowtables once
// its modules are loaded: a network says whether its connections go past the rules, which
// is seen, and --cleanup takes it back, with rules of nftables and with those of iptables.
func TestOffloadOnDebiansKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		m := machine{nstest.BootGuest(t, nstest.GuestConfig{
			Name: "host", Memory: 512, CPUs: 2,
			Initrd: nstest.GuestInitrd(t, nstest.GuestFiles{
				Programs: []string{"dbus-daemon", "ip", "nft", "iperf3", "ss", "iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore", filepath.Join(l.Bin, "vnetd"), filepath.Join(l.Bin, "vnetctl")},
				Modules: []string{
					"llc", "stp", "bridge", "tun", "veth", "nfnetlink", "libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nf_tables",
					"nft_ct", "nft_chain_nat", "nft_masq", "nft_nat", "nf_reject_ipv4", "nf_reject_ipv6", "nft_reject", "nft_reject_ipv4", "nft_reject_ipv6", "nft_redir",
					"nft_limit", "nf_conntrack_netlink", "nf_flow_table", "nf_flow_table_inet", "nft_flow_offload",
					"x_tables", "nft_compat", "xt_conntrack", "xt_tcpudp", "xt_nat", "xt_MASQUERADE", "xt_CHECKSUM", "ipt_REJECT", "ip6t_REJECT",
				},
				Texts: withExtensions(t, map[string]string{
					"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig, "/on.xml": offloadXML(""), "/off.xml": offloadXML("enabled='no'"),
					"/etc/vnetd/vnetd.toml": "flow_offload = true\nfirewall_backend = \"nftables\"\n",
				}),
			}),
		}), t}
		load := func(modules string) { m.run("for i in %s; do insmod /modules/$i.ko || exit 1; done", modules) }
		load("llc stp bridge tun veth nfnetlink libcrc32c nf_defrag_ipv4 nf_defrag_ipv6 nf_conntrack nf_nat nf_tables nft_ct nft_chain_nat nft_masq nft_nat")
		load("nf_reject_ipv4 nf_reject_ipv6 nft_reject nft_reject_ipv4 nft_reject_ipv6 nft_redir nft_limit nf_conntrack_netlink")
		m.run("mkdir -p /run/netns; for n in guest lan; do /bin/ip netns add $n; done")
		m.run("/bin/ip link add eno1 type veth peer name lan0 netns lan && /bin/ip addr add 203.0.113.2/24 dev eno1 && /bin/ip link set eno1 up && /bin/ip -n lan addr add 203.0.113.1/24 dev lan0 && /bin/ip -n lan link set lan0 up")
		startVnetd(m)
		m.run("vnetctl define /on.xml && vnetctl start fast")
		m.run("for i in $(seq 100); do vnetctl doctor | grep -q 'connections are not offloaded' && exit; usleep 200000; done; vnetctl doctor; cat /tmp/vnetd.log; false")
		load("nf_flow_table nf_flow_table_inet nft_flow_offload")
		m.run("/bin/ip link add v0 type veth peer name eth0 netns guest && /bin/ip link set v0 master virbr7 up && /bin/ip -n guest addr add 192.0.2.9/24 dev eth0 && /bin/ip -n guest link set eth0 up && /bin/ip -n guest route add default via 192.0.2.1")
		m.run("vnetctl stop fast && vnetctl start fast && /bin/ip link set v0 master virbr7 up")
		serve := "(/bin/ip netns exec lan iperf3 -s >/dev/null 2>&1 &) ; for i in $(seq 50); do /bin/ip netns exec lan ss -ltn | grep -q 5201 && exit; usleep 200000; done; false"
		m.run("%s", serve)
		stream := "(/bin/ip netns exec guest iperf3 -c 203.0.113.1 -t 120 -b 2M >/tmp/iperf.log 2>&1 &); "
		m.run("%s", stream+"for i in $(seq 50); do vnetctl status | grep -q '^offloaded connections: 2$' && exit; usleep 200000; done; vnetctl status; cat /tmp/iperf.log /tmp/vnetd.log; nft list ruleset; false")
		m.run("vnetctl define /off.xml")
		m.run("for i in $(seq 50); do vnetctl status | grep -q '^offloaded' || exit 0; usleep 200000; done; vnetctl status; false")
		if out := m.run("nft list table inet vnetd_offload 2>&1; true"); strings.Contains(out, "virbr7") {
			t.Errorf("of a network that is not offloaded there is\n%s", out)
		}
		m.run("vnetctl define /on.xml && for i in $(seq 50); do vnetctl status | grep -q '^offloaded connections: ' && exit; usleep 200000; done; vnetctl status; false")
		m.run("kill $(pidof vnetd); for i in $(seq 50); do pidof vnetd || break; usleep 200000; done; vnetd --cleanup")
		if out := m.run("nft list tables"); strings.Contains(out, "vnetd") {
			t.Errorf("left behind:\n%s", out)
		}

		load("x_tables nft_compat xt_conntrack xt_tcpudp xt_nat xt_MASQUERADE xt_CHECKSUM ipt_REJECT ip6t_REJECT")
		m.run("sed -i s/nftables/iptables/ /etc/vnetd/vnetd.toml; (vnetd >/tmp/vnetd.log 2>&1 &)")
		m.run("for i in $(seq 50); do vnetctl start fast && exit; usleep 200000; done; cat /tmp/vnetd.log; false")
		m.run("/bin/ip link set v0 master virbr7 up; kill $(pidof iperf3); for i in $(seq 50); do pidof iperf3 || break; usleep 200000; done; %s", serve)
		m.run("%s", stream+"for i in $(seq 50); do vnetctl status | grep -q '^offloaded connections: 2$' && exit; usleep 200000; done; vnetctl status; cat /tmp/iperf.log /tmp/vnetd.log; nft list ruleset; false")
		if out := m.run("vnetctl status; iptables -S LIBVIRT_FWO"); !strings.Contains(out, "firewall: iptables (") || !strings.Contains(out, "-A LIBVIRT_FWO -s 192.0.2.0/24 -i virbr7 -j ACCEPT") {
			t.Errorf("beside the offloaded connections there are\n%s", out)
		}
		// A rule of somebody else's is asked about connections that went past it.
		m.run("iptables -I FORWARD -i virbr7 -j DROP; for i in $(seq 50); do iptables -nvxL FORWARD | grep DROP | grep -q '[1-9].*DROP' && exit; usleep 200000; done; iptables -nvxL FORWARD; false")
		m.run("iptables -D FORWARD -i virbr7 -j DROP; for i in $(seq 50); do vnetctl status | grep -q '^offloaded connections: ' && exit; usleep 200000; done; vnetctl status; cat /tmp/vnetd.log; false")
		m.run("kill $(pidof vnetd); for i in $(seq 50); do pidof vnetd || break; usleep 200000; done; vnetd --cleanup")
		if out := m.run("nft list ruleset"); strings.Contains(out, "vnetd") || strings.Contains(out, "LIBVIRT") {
			t.Errorf("beside iptables there is left behind:\n%s", out)
		}
	})
}

// withExtensions are files of a guest with what iptables loads for the rules of networks.
func withExtensions(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	const dir = "/usr/lib/x86_64-linux-gnu/xtables"
	for _, name := range []string{"xt_standard", "xt_conntrack", "xt_tcp", "xt_udp", "xt_MASQUERADE", "xt_CHECKSUM", "ipt_REJECT", "ip6t_REJECT"} {
		path := filepath.Join(dir, "lib"+name+".so")
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = string(b)
	}
	return files
}
