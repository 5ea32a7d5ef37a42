package netdef_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/span"
)

// spanRows are documents with faults of <vnetd:span>.
func spanRows() []faultRow {
	const peer = "<vnetd:peer underlay='203.0.113.2'/>"
	return []faultRow{
		{"span that needs a cluster", extended("<vnetd:span hosts='all' vni='auto' block='16' egress='host:a' host-address='maybe' color='red'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@egress: 'host:a': want local: each host lets its own guests out",
			"network/vnetd:span/@host-address: 'maybe': want yes or no",
			"network/vnetd:span/@hosts: 'all': needs a cluster: want cluster='NAME' of a [cluster.NAME] in vnetd.toml",
			"network/vnetd:span/@block: '16': needs a cluster: want cluster='NAME' of a [cluster.NAME] in vnetd.toml",
			"network/vnetd:span/@vni: 'auto': needs a cluster: want a number from 1 to 16777215, the same on all hosts",
			"network/vnetd:span/@color: 'red': the attribute is not known to this version of vnetd",
		}},
		{"span of a cluster that knows better", extended("<vnetd:span cluster='lab' vni='7' underlay='203.0.113.1' port='8472'>" + peer + "</vnetd:span><ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::10' end='fd00::20'/></dhcp></ip>"), []string{
			"network/vnetd:span/@underlay: '203.0.113.1': not allowed with a cluster: the [cluster.lab] of each host's vnetd.toml says it",
			"network/vnetd:span/@port: '8472': not allowed with a cluster: the [cluster.lab] of each host's vnetd.toml says it",
			"network/vnetd:span/vnetd:peer: not allowed with a cluster, which knows the hosts: want hosts='all', or their names",
		}},
		{"words of a cluster", extended("<vnetd:span cluster='' vni='7'/>"), []string{"network/vnetd:span/@cluster: want 1 to 64 letters and digits"}},
		{"names and numbers of a cluster", extended("<vnetd:span cluster='a/b' hosts='h1 -h2' block='12' vni='7'/>"), []string{
			"network/vnetd:span/@cluster: 'a/b': want letters, digits, '.', '-' and '_', of which the first is a letter or a digit",
			"network/vnetd:span/@hosts: 'h1 -h2': \"-h2\": want letters, digits, '.', '-' and '_', of which the first is a letter or a digit",
			"network/vnetd:span/@block: '12': want auto, or a power of two from 4 to 65536",
		}},
		{"span of nothing", extended("<vnetd:span/><vnetd:span vni='7'/>"), []string{
			"network/vnetd:span[2]: only one <vnetd:span> is allowed",
			"network/vnetd:span/@vni: missing, want a number from 1 to 16777215, the same on all hosts",
		}},
		{"numbers of a span", extended("<vnetd:span vni='16777216' port='65536' underlay='host1'>" + peer + "<vnetd:peer/></vnetd:span>"), []string{
			"network/vnetd:span/@vni: '16777216': want a number from 1 to 16777215, the same on all hosts",
			"network/vnetd:span/@underlay: 'host1': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
			"network/vnetd:span/@port: '65536': want a port of UDP from 1 to 65535",
			"network/vnetd:span/vnetd:peer[2]/@underlay: missing, want the address of a host",
		}},
		{"a port that networks serve", extended("<vnetd:span vni='7' underlay='203.0.113.1' port='53'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@port: '53': is for DNS, DHCP or TFTP, want another, the same on all hosts, or none for 4789",
		}},
		{"addresses of a span", extended("<bridge name='vx7'/><ip address='192.0.2.1' prefix='24'/><vnetd:span vni='7' underlay='192.0.2.5'>" + peer + peer +
			"<vnetd:peer underlay='2001:db8::1'/><vnetd:peer underlay='127.0.0.1'/></vnetd:span>"), []string{
			"network/vnetd:span/@vni: '7': the tunnel's device would have the name of the bridge, vx7",
			"network/vnetd:span/@underlay: '192.0.2.5': is in the network's own subnet 192.0.2.0/24: want an address of the hosts' own network",
			"network/vnetd:span/vnetd:peer[2]/@underlay: '203.0.113.2': want each host once",
			"network/vnetd:span/vnetd:peer[3]/@underlay: '2001:db8::1': is of another family than 192.0.2.5: want all hosts by IPv4, or all by IPv6",
			"network/vnetd:span/vnetd:peer[4]/@underlay: '127.0.0.1': want the address of a host, that others reach",
		}},
		{"span of which this host's address is not known", extended("<vnetd:span vni='7'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@underlay: missing, want the address of this host, or all hosts with this one among <vnetd:peer>",
		}},
		{"span of this host alone", extended("<vnetd:span vni='7' underlay='203.0.113.2'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/vnetd:peer: missing, want the address of at least one other host",
		}},
		{"a host's own address of a network without any", extended("<vnetd:span vni='7' underlay='203.0.113.1' host-address='yes'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@host-address: 'yes': needs addresses to take one from: want an <ip> of IPv4 with a <range>, or one of IPv6 with prefix 64",
		}},
		{"a host's own address where DHCP gives none", extended("<ip address='192.0.2.1' prefix='24'><dhcp><host mac='52:54:00:00:00:01' ip='192.0.2.9'/></dhcp></ip>" +
			"<ip family='ipv6' address='fd00::1' prefix='80'/><vnetd:span vni='7' underlay='203.0.113.1' host-address='yes'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@host-address: 'yes': needs addresses to take one from: want an <ip> of IPv4 with a <range>, or one of IPv6 with prefix 64",
		}},
		{"a host's own address among isolated ports", extended("<port isolated='yes'/><ip family='ipv6' address='fd00::1' prefix='64'/><vnetd:span vni='7' underlay='203.0.113.1' host-address='yes'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@host-address: 'yes': not possible with <port isolated='yes'/>: from other hosts nothing reaches an isolated port",
		}},
		{"a host's own address by a link of the bridge's name", extended("<bridge name='vhp7'/><ip family='ipv6' address='fd00::1' prefix='64'/><vnetd:span vni='7' underlay='203.0.113.1' host-address='yes'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span/@host-address: 'yes': the host's link would have the name of the bridge, vhp7",
		}},
		{"span with tags", extended("<vnetd:bridge vlan-filtering='yes'/><vnetd:span vni='7' underlay='203.0.113.1'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span: not possible with VLANs: tags don't go from host to host",
		}},
		{"span of the LAN", lan("<vnetd:span vni='7' underlay='203.0.113.1'>" + peer + "</vnetd:span>"), []string{
			"network/vnetd:span: not allowed in mode bridge: want nat, route, open or no <forward>, with a bridge that vnetd makes",
		}},
	}
}

// TestSpan reads and prints what other hosts a network is on, and completes it.
func TestSpan(t *testing.T) {
	const inside = "<vnetd:span vni='66051' underlay='203.0.113.1' port='8472'><vnetd:peer underlay='203.0.113.1'/><vnetd:peer underlay='203.0.113.2'/></vnetd:span>"
	n := parse(t, []byte(extended(natHere+inside)))
	if err := n.Validate(); err != nil {
		t.Error(err)
	}
	if xml := string(n.XML()); !strings.Contains(strings.NewReplacer("\n", "", "  ", "").Replace(xml), inside) {
		t.Errorf("printed:\n%s", xml)
	}
	self := netip.MustParseAddr("203.0.113.1")
	if got := n.Span.Others(self); !cmp.Equal(got, []netip.Addr{netip.MustParseAddr("203.0.113.2")}, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })) {
		t.Errorf("the other hosts are %v", got)
	}
	if err := n.Complete(netdef.Completion{}); err != nil || n.MAC.String() != "02:76:6e:01:02:03" || n.Span.Device() != "vx66051" {
		t.Errorf("completed: %v, MAC address %v, device %s", err, n.MAC, n.Span.Device())
	}
	plain := parse(t, []byte(extended("<vnetd:span vni='7' egress='local' host-address='no'><vnetd:peer underlay='2001:db8::1'/><vnetd:peer underlay='2001:db8::2'/></vnetd:span>")))
	if err := plain.Validate(); err != nil || plain.Span.Port != span.DefaultPort || plain.Span.Underlay.IsValid() || strings.Contains(string(plain.XML()), "port=") {
		t.Errorf("%v, port %d, underlay %v:\n%s", err, plain.Span.Port, plain.Span.Underlay, plain.XML())
	}
	if got := []int{span.Overhead(self), span.Overhead(plain.Span.Peers[0])}; !cmp.Equal(got, []int{50, 70}) {
		t.Errorf("a tunnel takes %v bytes", got)
	}
	clone := n.Clone()
	if clone.Span.Peers[0] = plain.Span.Peers[0]; n.Span.Peers[0] != self {
		t.Error("a clone shares its peers")
	}
}

// TestSpanOfCluster reads and prints what network a cluster's hosts have.
func TestSpanOfCluster(t *testing.T) {
	const inside = "<vnetd:span cluster='lab' hosts='h1 h2' vni='7' block='16'/>"
	n := parse(t, []byte(extended(natHere+inside)))
	if err := n.Validate(); err != nil {
		t.Error(err)
	}
	if xml := string(n.XML()); !strings.Contains(xml, inside) {
		t.Errorf("printed:\n%s", xml)
	}
	if n.Span.On("h3") || !n.Span.On("h2") {
		t.Error("it is on other hosts than it says")
	}
	if err := n.Complete(netdef.Completion{}); err != nil || n.MAC.String() != "02:76:6e:00:00:07" || n.Bridge.MACTableManager != "libvirt" {
		t.Errorf("completed: %v\n%s", err, n.XML())
	}
	for _, auto := range []string{"", " vni='auto'"} {
		if n := parse(t, []byte(extended(natHere+"<vnetd:span cluster='lab'"+auto+"/>"))); n.Validate() != nil || !n.Span.Auto() {
			t.Errorf("%s: VNI %d, %v", auto, n.Span.VNI, n.Validate())
		}
	}
	all := parse(t, []byte(extended(natHere+"<vnetd:span cluster='lab' hosts='all' vni='7' block='auto'/>")))
	if err := all.Validate(); err != nil || !all.Span.On("h3") || all.Span.Block != 0 || !strings.Contains(string(all.XML()), "<vnetd:span cluster='lab' vni='7'/>") {
		t.Errorf("%v\n%s", err, all.XML())
	}
}

// TestSpanHostAddress reads and prints that hosts have addresses of their own, and gives each another card.
func TestSpanHostAddress(t *testing.T) {
	for _, inside := range []string{
		"<vnetd:span cluster='lab' vni='7' host-address='yes'/>",
		"<vnetd:span vni='7' underlay='203.0.113.1' host-address='yes'><vnetd:peer underlay='203.0.113.2'/></vnetd:span>",
	} {
		n := parse(t, []byte(extended("<ip family='ipv6' address='fd00::1' prefix='64'/>"+inside)))
		if err := n.Validate(); err != nil || !n.Span.HostAddress {
			t.Errorf("%s: %v", inside, err)
		}
		if xml := strings.NewReplacer("\n", "", "  ", "").Replace(string(n.XML())); !strings.Contains(xml, inside) {
			t.Errorf("printed:\n%s", xml)
		}
		if n.Span.HostDevice() != "vh7" || n.Span.HostPort() != "vhp7" || n.Span.HostMAC("h1").String() == n.Span.HostMAC("h2").String() {
			t.Errorf("links %s and %s, cards %v and %v", n.Span.HostDevice(), n.Span.HostPort(), n.Span.HostMAC("h1"), n.Span.HostMAC("h2"))
		}
	}
	most := parse(t, []byte(extended(natHere+"<vnetd:span cluster='lab' vni='16777215'/>")))
	if name := most.Span.HostPort(); len(name) > 15 {
		t.Errorf("%s is no name for a link", name)
	}
}

// TestSpanConflicts finds a VNI that two networks of a host would have.
func TestSpanConflicts(t *testing.T) {
	doc := func(name, vni string) *netdef.Network {
		return parse(t, []byte(strings.Replace(extended("<vnetd:span vni='"+vni+"' underlay='203.0.113.1'><vnetd:peer underlay='203.0.113.2'/></vnetd:span>"), "<name>n<", "<name>"+name+"<", 1)))
	}
	err := netdef.Conflicts(doc("n", "7"), []*netdef.Network{doc("o", "7"), doc("p", "8")})
	if want := "network/vnetd:span/@vni: '7': the VNI is that of network 'o'"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
