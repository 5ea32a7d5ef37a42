package netdef_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// extended is network with vnetd's namespace.
func extended(inside string) string {
	return strings.Replace(network(inside), "<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", 1)
}

// dnsmasqOptions is a network with lines for dnsmasq.
func dnsmasqOptions(lines ...string) string {
	text := "<dnsmasq:options>"
	for _, l := range lines {
		text += "<dnsmasq:option value='" + l + "'/>"
	}
	return strings.Replace(network(text+"</dnsmasq:options>"), "<network>", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>", 1)
}

// lan wraps elements into a network with an uplink.
func lan(inside string) string {
	return extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='ens33'/>" + inside)
}

func extensionRows() []faultRow {
	return append(append(uplinkRows(), recordRows()...), []faultRow{
		{"unknown extension", extended("<vnetd:flag/>"), []string{"network/vnetd:flag: not known to this version of vnetd"}},
		{"unknown inside", lan("<vnetd:access flag='1'><vnetd:role name='x'/><user name='x'/></vnetd:access>"), []string{
			"network/vnetd:access/@flag: '1': not known to this version of vnetd",
			"network/vnetd:access/vnetd:role: not known to this version of vnetd",
			"network/vnetd:access/user: not known to this version of vnetd",
		}},
		{"extension elsewhere", extended("<bridge name='virbr0' vnetd:flag='1'><vnetd:uplink dev='ens33'/></bridge>"), []string{
			"network/bridge/@vnetd:flag: '1': not known to this version of vnetd",
			"network/bridge/vnetd:uplink: not known to this version of vnetd",
		}},
		{"dhcp policy", extended("<vnetd:dhcp identity='name' probe='maybe'/>"), []string{
			"network/vnetd:dhcp/@identity: 'name': want both or client-id or mac",
			"network/vnetd:dhcp/@probe: 'maybe': want yes or no",
		}},
		{"dhcp policy of a bridge", lan("<vnetd:dhcp probe='yes'/>"), []string{
			"network/vnetd:dhcp: not allowed in mode bridge: the network serves no DHCP",
		}},
		{"guard", extended("<vnetd:guard level='lax' arp='yes' color='red' addresses='0'/>"), []string{
			"network/vnetd:guard/@level: 'lax': want off or gateway or strict",
			"network/vnetd:guard/@addresses: '0': want a number from 1 to 65536",
			"network/vnetd:guard/@arp: 'yes': want off or gateway or strict",
			"network/vnetd:guard/@color: 'red': not known to this version of vnetd",
		}},
		{"guard without a level", extended("<vnetd:guard arp='off'/>"), []string{
			"network/vnetd:guard/@level: missing, want off or gateway or strict",
		}},
		{"guard of no ports", extended("<forward mode='passthrough'><interface dev='eth0'/></forward><vnetd:guard level='strict'/>"), []string{
			"network/vnetd:guard: not allowed in mode passthrough: guests have no ports on a bridge",
		}},
		{"inbound", extended("<forward mode='nat'/><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6 inbound='maybe' outbound='no'/>"), []string{
			"network/vnetd:ipv6/@inbound: 'maybe': want yes or no",
			"network/vnetd:ipv6/@outbound: 'no': not known to this version of vnetd",
		}},
		{"inbound not said", extended("<forward mode='nat'/><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6/>"), []string{"network/vnetd:ipv6/@inbound: missing, want yes or no"}},
		{"inbound of an isolated network", extended("<vnetd:ipv6 inbound='no'/>"), []string{
			"network/vnetd:ipv6: not allowed in mode none: want nat or route",
		}},
		{"inbound through translation", extended("<forward mode='nat'><nat ipv6='yes'/></forward><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6 inbound='yes'/>"), []string{
			"network/vnetd:ipv6/@inbound: 'yes': not possible with <nat ipv6='yes'/>, which nobody outside can connect through: want no, or no <nat ipv6>",
		}},
		{"advertised prefixes", extended("<ip address='192.0.2.1' netmask='255.255.255.0'><vnetd:ra autonomous='yes'/></ip>" +
			"<ip family='ipv6' address='fd00:1::1' prefix='80'><vnetd:ra autonomous='yes'/></ip>" +
			"<ip family='ipv6' address='fd00:2::1' prefix='64'><vnetd:ra autonomous='maybe' managed='yes' other='no'/></ip>"), []string{
			"network/ip[3]/vnetd:ra/@autonomous: 'maybe': want yes or no",
			"network/ip[3]/vnetd:ra/@other: 'no': not known to this version of vnetd",
			"network/ip[1]/vnetd:ra: not allowed in an IPv4 <ip>",
			"network/ip[2]/vnetd:ra/@autonomous: 'yes': guests can make addresses of a prefix of 64 bits only, this one has 80: want another prefix, or <dhcp>",
			"network/ip[3]/vnetd:ra/@managed: 'yes': want <dhcp> with a range or a host: there is no DHCPv6 to ask",
		}},
		{"boot", extended("<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.9'/>" +
			"<vnetd:boot arch='x86' file='f'/><vnetd:boot arch='x86-uefi'/><vnetd:boot arch='x86-uefi' http='ftp://h/f'/>" +
			"<vnetd:boot arch='ipxe' file='f' http='http://h/f'/><vnetd:boot arch='x86-bios' server='fd00::1' http='http://h/f'/>" +
			"<vnetd:boot file='f' tftp='x'/></dhcp></ip>" +
			"<ip family='ipv6' address='fd00::1' prefix='64'><dhcp><range start='fd00::2' end='fd00::9'/><vnetd:boot arch='x86-uefi' file='f'/><vnetd:boot arch='x86-bios' file='f' server='192.0.2.9'/><vnetd:boot arch='arm64-uefi' file='f' server='fd00::9' http='http://h/f'/></dhcp></ip>"), []string{
			"network/ip[1]/dhcp/vnetd:boot[1]/@arch: 'x86': want x86-bios or x86-uefi or x86-uefi32 or arm32-uefi or arm64-uefi or riscv64-uefi or loongarch64-uefi or ipxe",
			"network/ip[1]/dhcp/vnetd:boot[6]/@arch: missing, want the kind of client",
			"network/ip[1]/dhcp/vnetd:boot[6]/@tftp: 'x': not known to this version of vnetd",
			"network/ip[1]/dhcp/vnetd:boot[2]: want file, http or both: there is nothing to boot",
			"network/ip[1]/dhcp/vnetd:boot[3]/@arch: 'x86-uefi': want each kind of client once",
			"network/ip[1]/dhcp/vnetd:boot[3]/@http: 'ftp://h/f': want a URL that begins with http:// or https://",
			"network/ip[1]/dhcp/vnetd:boot[4]/@http: 'http://h/f': want file or http for iPXE, which takes either",
			"network/ip[1]/dhcp/vnetd:boot[5]/@server: 'fd00::1': want file: the server is where it is",
			"network/ip[1]/dhcp/vnetd:boot[5]/@server: 'fd00::1': want an IPv4 address",
			"network/ip[2]/dhcp/vnetd:boot[1]/@server: missing, want the IPv6 address of a TFTP server, or http instead of file: the network's own TFTP is IPv4's",
			"network/ip[2]/dhcp/vnetd:boot[2]/@server: '192.0.2.9': want an IPv6 address",
		}},
		{"dnsmasq", dnsmasqOptions("log-dhcp", "pxe-service=x86PC,boot,pxelinux", "dhcp-host=192.0.2.9", "dhcp-host=52:54:00:00:00:01,ignore"), []string{
			"network/dnsmasq:options/dnsmasq:option[2]/@value: 'pxe-service=x86PC,boot,pxelinux': not served: want <vnetd:boot arch='...'/>, or dhcp-match with dhcp-boot",
			"network/dnsmasq:options/dnsmasq:option[3]/@value: 'dhcp-host=192.0.2.9': want hardware addresses, id:IDENTIFIER or a name, and addresses (IPv6 in brackets), a lease time, set:TAG, tag:TAG or ignore",
		}},
		{"access twice", extended("<vnetd:access/><vnetd:access/>"), []string{"network/vnetd:access: only one <vnetd:access> is allowed"}},
		{"accounts", extended("<vnetd:access><vnetd:user/><vnetd:user name='a'/><vnetd:user name='a'/><vnetd:group name='1000'/>" +
			"<vnetd:group name='a b'/><vnetd:group name='a:b'/></vnetd:access>"), []string{
			"network/vnetd:access/vnetd:user[1]/@name: missing, want a name",
			"network/vnetd:access/vnetd:user[3]/@name: 'a': want each name once",
			"network/vnetd:access/vnetd:group[1]/@name: '1000': want a name, not a number",
			"network/vnetd:access/vnetd:group[2]/@name: 'a b': want a name without blanks",
			"network/vnetd:access/vnetd:group[3]/@name: 'a:b': want a name without ':' and ','",
		}},
	}...)
}

func uplinkRows() []faultRow {
	const bridge = "<forward mode='bridge'/><bridge name='br0'/>"
	return []faultRow{
		{"uplink without dev", extended(bridge + "<vnetd:uplink/>"), []string{"network/vnetd:uplink/@dev: missing, want the name of an interface"}},
		{"uplink twice", lan("<vnetd:uplink dev='ens34'/>"), []string{"network/vnetd:uplink: only one <vnetd:uplink> is allowed"}},
		{"uplink name", extended(bridge + "<vnetd:uplink dev='a/b'/>"), []string{"network/vnetd:uplink/@dev: 'a/b': want a name without '/', ':' and '%'"}},
		{"uplink is bridge", extended(bridge + "<vnetd:uplink dev='br0'/>"), []string{"network/vnetd:uplink/@dev: 'br0': the bridge has the same name"}},
		{"uplink of nat", extended("<forward/><ip address='192.0.2.1'/><vnetd:uplink dev='ens33'/>"), []string{
			"network/vnetd:uplink: only allowed in mode bridge, not in nat",
		}},
		{"uplink without bridge", extended("<forward mode='bridge'/><vnetd:uplink dev='ens33'/>"), []string{
			"network/bridge/@name: missing, want the name of the bridge that is made for the uplink",
		}},
		{"uplink and interface", extended("<forward mode='bridge' dev='ens34'/><bridge name='br0'/><vnetd:uplink dev='ens33'/>"), []string{
			"network/bridge/@name: 'br0': want either a bridge name or a forward interface in mode bridge, not both",
		}},
		{"uplink stp", extended("<forward mode='bridge'/><bridge name='br0' stp='yes'/><vnetd:uplink dev='ens33'/>"), []string{
			"network/bridge/@stp: 'yes': want on or off",
		}},
		{"uplink with all", lan("<mac address='52:54:00:00:53:01'/><domain name='d'/><dns><txt name='a' value='b'/></dns>" +
			"<ip address='192.0.2.1' prefix='24'/><virtualport type='openvswitch'/><portgroup name='a'><virtualport type='openvswitch'/></portgroup>"), []string{
			"network/ip[1]: not allowed in mode bridge with an uplink: addresses, names and services are the LAN's",
			"network/mac: not allowed in mode bridge with an uplink: addresses, names and services are the LAN's",
			"network/dns: not allowed in mode bridge with an uplink: addresses, names and services are the LAN's",
			"network/domain: not allowed in mode bridge with an uplink: addresses, names and services are the LAN's",
			"network/virtualport: not allowed with an uplink: the bridge has no ports with a profile",
			"network/portgroup[1]/virtualport: not allowed with an uplink: the bridge has no ports with a profile",
		}},
	}
}

// TestOwnsBridge checks who makes the bridge, and what is filled in for it.
func TestOwnsBridge(t *testing.T) {
	for _, tt := range []struct {
		name, xml string
		want      bool
	}{
		{"isolated", network(""), true},
		{"host's bridge", network("<forward mode='bridge'/><bridge name='br0'/>"), false},
		{"uplink", lan(""), true},
		{"macvtap", network("<forward mode='bridge' dev='ens33'/>"), false},
	} {
		if got := parse(t, []byte(tt.xml)).OwnsBridge(); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	n := parse(t, []byte(lan("")))
	if err := n.Complete(netdef.Completion{}); err != nil {
		t.Fatal(err)
	}
	if n.MAC != nil || n.Bridge != (netdef.Bridge{Name: "br0"}) || n.Uplink != "ens33" {
		t.Errorf("completed: MAC %s, bridge %+v, uplink %s; want what was written and no more", n.MAC, n.Bridge, n.Uplink)
	}
}

// TestUplinkConflicts checks that two networks don't take one interface or make
// one bridge, and that networks may be on the bridge of another.
func TestUplinkConflicts(t *testing.T) {
	other := parse(t, []byte(strings.Replace(lan(""), "<name>n<", "<name>other<", 1)))
	for _, tt := range []struct{ name, xml, want string }{
		{
			"both", lan(""), "network/vnetd:uplink/@dev: 'ens33': the interface is the uplink of network 'other'\n" +
				"network/bridge/@name: 'br0': the bridge is that of network 'other'",
		},
		{"guest of the bridge", network("<forward mode='bridge'/><bridge name='br0'/>"), ""},
		{"another", strings.NewReplacer("br0", "br1", "ens33", "ens34").Replace(lan("")), ""},
	} {
		if diff := cmp.Diff(tt.want, text(netdef.Conflicts(parse(t, []byte(tt.xml)), []*netdef.Network{other}))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// TestAccess checks that no access and access for nobody are told apart.
func TestAccess(t *testing.T) {
	n := parse(t, []byte(extended("<vnetd:access/>")))
	if n.Access == nil || len(n.Access.Users)+len(n.Access.Groups) > 0 {
		t.Errorf("got %+v, want an empty access", n.Access)
	}
	if again := parse(t, n.XML()); again.Access == nil {
		t.Errorf("lost in print:\n%s", n.XML())
	}
	if n := parse(t, []byte(network(""))); n.Access != nil {
		t.Errorf("got %+v, want none", n.Access)
	}
}

// TestRAPolicy reads and prints what is advertised of prefixes.
func TestRAPolicy(t *testing.T) {
	const dhcp = "<dhcp><range start='fd00::2' end='fd00::9'/></dhcp>"
	for _, c := range []struct {
		bits, inside        string
		autonomous, managed bool
		addressless         bool
	}{
		{"64", "", true, false, false},
		{"64", dhcp, false, true, false},
		{"80", "", false, false, true},
		{"80", dhcp, false, true, false},
		{"64", dhcp + "<vnetd:ra autonomous='yes'/>", true, true, false},
		{"64", dhcp + "<vnetd:ra autonomous='yes' managed='no'/>", true, false, false},
		{"64", "<vnetd:ra autonomous='no'/>", false, false, false},
		{"80", "<vnetd:ra autonomous='no'/>", false, false, false},
	} {
		n := parse(t, []byte(extended("<ip family='ipv6' address='fd00::1' prefix='"+c.bits+"'>"+c.inside+"</ip>")))
		for _, ip := range []netdef.IP{n.IPs[0], parse(t, n.XML()).IPs[0]} {
			if ip.Autonomous() != c.autonomous || ip.Managed() != c.managed || ip.Addressless() != c.addressless {
				t.Errorf("/%s %s: autonomous %v, managed %v, addressless %v, want %+v", c.bits, c.inside, ip.Autonomous(), ip.Managed(), ip.Addressless(), c)
			}
		}
	}
}

// TestBoot reads and prints what kinds of clients boot.
func TestBoot(t *testing.T) {
	want := []netdef.Boot{
		{Arch: "x86-uefi", File: "grub.efi", HTTP: "http://192.0.2.9/grub.efi"},
		{Arch: "ipxe", File: "menu.ipxe", Server: netip.MustParseAddr("192.0.2.9")},
	}
	n := parse(t, []byte(extended("<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.8'/>"+
		"<vnetd:boot arch='x86-uefi' file='grub.efi' http='http://192.0.2.9/grub.efi'/><vnetd:boot arch='ipxe' file='menu.ipxe' server='192.0.2.9'/></dhcp></ip>")))
	for _, n := range []*netdef.Network{n, parse(t, n.XML()), n.Clone()} {
		if diff := cmp.Diff(want, n.IPs[0].DHCP.Boots, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestDHCPPolicy reads and prints how clients of DHCP are dealt with.
func TestDHCPPolicy(t *testing.T) {
	want := netdef.DHCPPolicy{Identity: "client-id", Probe: netdef.No}
	n := parse(t, []byte(extended("<vnetd:dhcp identity='client-id' probe='no'/>")))
	if again := parse(t, n.XML()); n.DHCPPolicy != want || again.DHCPPolicy != want {
		t.Errorf("got %+v, printed and read again %+v, want %+v", n.DHCPPolicy, again.DHCPPolicy, want)
	}
}

// TestGuard reads and prints what ports are kept from sending.
func TestGuard(t *testing.T) {
	want := netdef.Guard{Level: "strict", Kinds: "mac=gateway,arp=off", Addresses: 8}
	n := parse(t, []byte(extended("<vnetd:guard level='strict' addresses='8' arp='off' mac='gateway'/>")))
	if again := parse(t, n.XML()); n.Guard != want || again.Guard != want || want.String() != "strict,mac=gateway,arp=off" {
		t.Errorf("got %+v, printed and read again %+v, want %+v", n.Guard, again.Guard, want)
	}
}

// TestInbound6 reads and prints whether connections of IPv6 may begin outside.
func TestInbound6(t *testing.T) {
	for _, inside := range []string{"", "<nat ipv6='yes'/>"} {
		n := parse(t, []byte(extended("<forward mode='nat'>"+inside+"</forward><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6 inbound='no'/>")))
		if err := n.Validate(); err != nil {
			t.Error(err)
		}
		if again := parse(t, n.XML()); n.Inbound6 != netdef.No || again.Inbound6 != netdef.No {
			t.Errorf("got %q, printed and read again %q, want no", n.Inbound6, again.Inbound6)
		}
	}
}
