package netdef_test

import (
	"net/netip"
	"slices"
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

// natHere makes a network one of mode nat.
const natHere = "<forward mode='nat'/><ip address='192.0.2.1' prefix='24'/>"

// lan wraps elements into a network with an uplink.
func lan(inside string) string {
	return extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='ens33'/>" + inside)
}

func extensionRows() []faultRow {
	return append(slices.Concat(uplinkRows(), recordRows(), spanRows(), announceRows()), []faultRow{
		{"unknown extension", extended("<vnetd:flag/>"), []string{"network/vnetd:flag: the element is not known to this version of vnetd"}},
		{"unknown inside", lan("<vnetd:access flag='1'><vnetd:role name='x'/><user name='x'/></vnetd:access>"), []string{
			"network/vnetd:access/@flag: '1': the attribute is not known to this version of vnetd",
			"network/vnetd:access/vnetd:role: the element is not known to this version of vnetd",
			"network/vnetd:access/user: the element is not known to this version of vnetd",
		}},
		{"extension elsewhere", extended("<bridge name='virbr0' vnetd:flag='1'><vnetd:uplink dev='ens33'/></bridge>"), []string{
			"network/bridge/@vnetd:flag: '1': the attribute is not known to this version of vnetd",
			"network/bridge/vnetd:uplink: the element is not known to this version of vnetd",
		}},
		{"dhcp policy", extended("<vnetd:dhcp identity='name' probe='maybe'/>"), []string{
			"network/vnetd:dhcp/@identity: 'name': want both or client-id or mac",
			"network/vnetd:dhcp/@probe: 'maybe': want yes or no",
		}},
		{"dhcp policy of a bridge", lan("<vnetd:dhcp probe='yes'/>"), []string{
			"network/vnetd:dhcp: not allowed in mode bridge: the network serves no DHCP",
		}},
		{"bridge policy", lan("<vnetd:bridge multicast-snooping='no' querier='yes' color='red'/>"), []string{
			"network/vnetd:bridge/@color: 'red': the attribute is not known to this version of vnetd",
			"network/vnetd:bridge/@querier: 'yes': not possible with multicast-snooping='no': nobody hears the answers",
		}},
		{"bridge policy words", extended("<vnetd:bridge multicast-snooping='on' vlan-filtering='off'/>"), []string{
			"network/vnetd:bridge/@multicast-snooping: 'on': want yes or no",
			"network/vnetd:bridge/@vlan-filtering: 'off': want yes or no",
		}},
		{"bridge policy of VLANs", lan("<vnetd:bridge vlan-filtering='no'/><portgroup name='a'><vlan><tag id='42'/></vlan></portgroup>"), []string{
			"network/vnetd:bridge/@vlan-filtering: 'no': not possible with a <vlan>: want yes, or leave it out",
		}},
		{"bridge policy of a querier", lan("<vnetd:bridge querier='yes'/><vlan><tag id='42'/></vlan>"), []string{
			"network/vnetd:bridge/@querier: 'yes': not possible with VLANs: the bridge asks those without a tag alone, and all others would lose IPv6",
		}},
		{"bridge policy of the host's", extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:bridge querier='yes'/>"), []string{
			"network/vnetd:bridge: not allowed in mode bridge without <vnetd:uplink>: the network makes no bridge",
		}},
		{"guard", extended("<vnetd:guard level='lax' arp='yes' color='red' addresses='0'/>"), []string{
			"network/vnetd:guard/@level: 'lax': want off or gateway or strict",
			"network/vnetd:guard/@addresses: '0': want a number from 1 to 65536",
			"network/vnetd:guard/@arp: 'yes': want off or gateway or strict",
			"network/vnetd:guard/@color: 'red': the attribute is not known to this version of vnetd",
		}},
		{"host access", extended("<forward mode='bridge' dev='ens33'/><vnetd:host-access dev='ens33' mac='01:00:5e:00:00:01'/>"), []string{
			"network/vnetd:host-access/@dev: 'ens33': the interface that guests are on has the same name",
			"network/vnetd:host-access/@mac: '01:00:5e:00:00:01': a multicast address, want the lowest bit of the first octet clear",
		}},
		{"host access without dev", extended("<forward mode='bridge' dev='ens33'/><vnetd:host-access/>"), []string{
			"network/vnetd:host-access/@dev: missing, want the name of the interface that the host shall have",
		}},
		{"host access to a pool", extended("<forward mode='bridge'><interface dev='ens33'/><interface dev='ens34'/></forward><vnetd:host-access dev='host0'/>"), []string{
			"network/vnetd:host-access: want one interface in <forward>, which the host is on, too",
		}},
		{"host access in another mode", extended("<forward mode='vepa' dev='ens33'/><vnetd:host-access dev='host0'/>"), []string{
			"network/vnetd:host-access: only allowed in mode bridge with <forward dev>: in mode vepa the host and its guests are not on one interface that lets them reach each other",
		}},
		{"host access to a bridge", extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:host-access dev='host0'/>"), []string{
			"network/vnetd:host-access: only allowed in mode bridge with <forward dev>: in mode bridge the host and its guests are not on one interface that lets them reach each other",
		}},
		{"guard without a level", extended("<vnetd:guard arp='off'/>"), []string{
			"network/vnetd:guard/@level: missing, want off or gateway or strict",
		}},
		{"guard of no ports", extended("<forward mode='passthrough'><interface dev='eth0'/></forward><vnetd:guard level='strict'/>"), []string{
			"network/vnetd:guard: not allowed in mode passthrough without a bridge: what a guest sends does not enter the host",
		}},
		{"forward", extended(natHere + "<vnetd:forward proto='icmp' port='80-70' address='x' to='' to-port='70000' from='192.0.2.0/24, x' color='red'/>"), []string{
			"network/vnetd:forward[1]/@proto: 'icmp': want tcp or udp or sctp",
			"network/vnetd:forward[1]/@port: '80-70': want a port from 1 to 65535, or a range like 8080-8089",
			"network/vnetd:forward[1]/@address: 'x': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
			"network/vnetd:forward[1]/@to-port: '70000': want a number from 1 to 65535",
			"network/vnetd:forward[1]/@from: '192.0.2.0/24, x': 192.0.2.0/24, is no subnet, want such as 198.51.100.0/24 with blanks between",
			"network/vnetd:forward[1]/@color: 'red': the attribute is not known to this version of vnetd",
		}},
		{"forwards of many rules", extended(natHere + "<vnetd:forward proto='tcp' port='2000-9999' to='web'/>" +
			"<vnetd:forward proto='udp' port='2000-6095' to='web' to-port='2001' from='198.51.100.0/24 203.0.113.7'/>"), []string{
			"network/vnetd:forward: 8193 rules for all forwards, want at most 8192: each takes one for each of its senders, one to other ports as many for each of its ports",
		}},
		{"forward of an isolated network", extended("<ip address='192.0.2.1' prefix='24'/><vnetd:forward proto='tcp' port='80' to='web'/>"), []string{
			"network/vnetd:forward: not allowed in mode none: want nat or route",
		}},
		{"forwards that can't be", extended("<forward mode='nat'><nat><port start='30000' end='31000'/></nat></forward><ip address='192.0.2.1' prefix='24'/>" +
			"<vnetd:forward proto='tcp' port='80-89' to='web'/><vnetd:forward proto='tcp' port='89' to='192.0.2.1'/>" +
			"<vnetd:forward proto='udp' port='53' to='198.51.100.1'/><vnetd:forward proto='udp' port='67' address='192.0.2.1' to='we_b!'/>" +
			"<vnetd:forward proto='udp' port='53' address='203.0.113.1' to='web' from='2001:db8::/64'/><vnetd:forward proto='udp' port='30500' address='::1' to='192.0.2.7'/>" +
			"<vnetd:forward proto='udp' port='1000-1010' to='web' to-port='65530'/>"), []string{
			"network/vnetd:forward[2]/@to: '192.0.2.1': want the address of a guest, in a subnet of the network",
			"network/vnetd:forward[2]/@port: '89': is forwarded by vnetd:forward[1] already, to web",
			"network/vnetd:forward[3]/@to: '198.51.100.1': want the address of a guest, in a subnet of the network",
			"network/vnetd:forward[3]/@port: '53': guests find DNS at port 53 of their gateway: want an address of this host that is none of a network's",
			"network/vnetd:forward[4]/@to: 'we_b!': want letters, digits, '-', '_' and '.' only, not '!'",
			"network/vnetd:forward[4]/@port: '67': guests find DHCP at port 67 of their gateway: want an address of this host that is none of a network's",
			"network/vnetd:forward[5]/@from: '2001:db8::/64': is of another family than the address 203.0.113.1",
			"network/vnetd:forward[5]/@port: '53': is forwarded by vnetd:forward[3] already, to 198.51.100.1",
			"network/vnetd:forward[6]/@to: '192.0.2.7': is of another family than the address ::1",
			"network/vnetd:forward[6]/@port: '30500': overlaps the ports 30000-31000 of network/forward/nat/port, which connections of guests get",
			"network/vnetd:forward[7]/@to-port: '65530': the last port would be 65540: want at most 65525",
		}},
		{"inbound", extended("<forward mode='nat'/><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6 inbound='maybe' outbound='no'/>"), []string{
			"network/vnetd:ipv6/@inbound: 'maybe': want yes or no",
			"network/vnetd:ipv6/@outbound: 'no': the attribute is not known to this version of vnetd",
		}},
		{"inbound not said", extended("<forward mode='nat'/><ip family='ipv6' address='fd00:1::1' prefix='64'/><vnetd:ipv6/>"), []string{"network/vnetd:ipv6/@inbound: missing, want yes or no"}},
		{"offload", extended("<forward mode='nat'/><ip address='192.0.2.1' prefix='24'/><vnetd:offload enabled='maybe' hardware='no'/>"), []string{
			"network/vnetd:offload/@enabled: 'maybe': want yes or no",
			"network/vnetd:offload/@hardware: 'no': the attribute is not known to this version of vnetd",
		}},
		{"offload of an isolated network", extended("<vnetd:offload/>"), []string{
			"network/vnetd:offload: only allowed in modes nat, route and open: in mode none this host forwards nothing of guests",
		}},
		{"subnet", extended("<forward mode='nat'/><vnetd:subnet auto='maybe' family='ipx' size='24'/>"), []string{
			"network/vnetd:subnet/@auto: 'maybe': want yes or no",
			"network/vnetd:subnet/@family: 'ipx': want ipv4 or ipv6",
			"network/vnetd:subnet/@size: '24': the attribute is not known to this version of vnetd",
			"network/forward/@mode: 'nat': needs an <ip>, and the network has none",
		}},
		{"subnet of a length", extended("<vnetd:subnet auto='yes' family='ipv4' prefix='31'/>"), []string{"network/vnetd:subnet/@prefix: '31': want a number from 8 to 30"}},
		{"subnets of a length", extended("<vnetd:subnet auto='yes' prefix='24'/>"), []string{"network/vnetd:subnet/@prefix: '24': only with family='ipv4' or family='ipv6'"}},
		{"subnet that is not chosen", extended("<vnetd:subnet/>"), []string{"network/vnetd:subnet/@auto: missing, want yes or no"}},
		{"subnet of a bridge of the host", extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:subnet auto='yes'/>"), []string{
			"network/vnetd:subnet: not allowed in mode bridge: the network has no addresses",
		}},
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
			"network/ip[3]/vnetd:ra/@other: 'no': the attribute is not known to this version of vnetd",
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
			"network/ip[1]/dhcp/vnetd:boot[6]/@tftp: 'x': the attribute is not known to this version of vnetd",
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
		{"uplink VLAN", extended(bridge + "<vnetd:uplink dev='ens33' vlan='4095'/>"), []string{"network/vnetd:uplink/@vlan: '4095': want a number from 1 to 4094"}},
		{"uplink VLAN is bridge", extended("<forward mode='bridge'/><bridge name='ens33.42'/><vnetd:uplink dev='ens33' vlan='42'/>"), []string{
			"network/vnetd:uplink/@dev: 'ens33.42': the bridge has the name of the VLAN of the uplink",
		}},
		{"VLANs of a bridge", lan("<vlan><tag id='0'/></vlan><portgroup name='a'><vlan trunk='yes'><tag id='7'/><tag id='4095'/></vlan></portgroup>"), []string{
			"network/vlan/tag[1]/@id: '0': want a number from 1 to 4094: the bridge has no other VLANs",
			"network/portgroup[1]/vlan/tag[2]/@id: '4095': want a number from 1 to 4094: the bridge has no other VLANs",
		}},
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

// TestVLANText reads and writes VLANs as options of ports have them.
func TestVLANText(t *testing.T) {
	for text, want := range map[string]netdef.VLAN{
		"42":                       {Tags: []netdef.VLANTag{{ID: 42}}},
		"trunk:42":                 {Trunk: true, Tags: []netdef.VLANTag{{ID: 42}}},
		"trunk:10,native=20":       {Trunk: true, Tags: []netdef.VLANTag{{ID: 10}, {ID: 20, NativeMode: "untagged"}}},
		"trunk:native-tagged=1,30": {Trunk: true, Tags: []netdef.VLANTag{{ID: 1, NativeMode: "tagged"}, {ID: 30}}},
	} {
		got, err := netdef.ParseVLAN(text)
		if err != nil || !cmp.Equal(&want, got) || got.String() != text {
			t.Errorf("%s: %+v, %v, written %s", text, got, err, got)
		}
	}
	for _, text := range []string{"", "0", "4095", "10,20", "native=10", "trunk:", "trunk:1,", "trunk:native=1,native=2", "x", "trunk:native=native=1", "1 "} {
		if v, err := netdef.ParseVLAN(text); err == nil {
			t.Errorf("%q is %v", text, v)
		}
	}
}

func FuzzParseVLAN(f *testing.F) {
	for _, text := range []string{"42", "trunk:10,native=20", "trunk:native-tagged=1,30"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := netdef.ParseVLAN(text)
		if err != nil {
			return
		}
		if again, err := netdef.ParseVLAN(v.String()); err != nil || !cmp.Equal(v, again) {
			t.Errorf("%q: read %+v, then %+v (%v)", text, v, again, err)
		}
	})
}

// TestBridgePolicy reads and prints what a bridge does, and the VLAN of its uplink.
func TestBridgePolicy(t *testing.T) {
	want := netdef.BridgePolicy{Snooping: netdef.Yes, Querier: netdef.Yes, FilterVLANs: netdef.No}
	n := parse(t, []byte(extended("<forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='enp130s0f0np0' vlan='42'/>"+
		"<vnetd:bridge multicast-snooping='yes' querier='yes' vlan-filtering='no'/>")))
	for _, n := range []*netdef.Network{n, parse(t, n.XML()), n.Clone()} {
		if n.BridgePolicy != want || n.UplinkVLAN != 42 || n.UplinkDevice() != "enp130s0f0np.42" || n.Validate() != nil {
			t.Errorf("%+v, %d, %s, %v", n.BridgePolicy, n.UplinkVLAN, n.UplinkDevice(), n.Validate())
		}
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

// TestOffload reads and prints whether connections go past the rules.
func TestOffload(t *testing.T) {
	for inside, want := range map[string]netdef.Tristate{
		"": netdef.Unset, "<vnetd:offload/>": netdef.Yes, "<vnetd:offload enabled='yes'/>": netdef.Yes, "<vnetd:offload enabled='no'/>": netdef.No,
	} {
		n := parse(t, []byte(extended("<forward mode='open'/><ip address='192.0.2.1' prefix='24'/>"+inside)))
		if err := n.Validate(); err != nil {
			t.Error(err)
		}
		if again := parse(t, n.XML()); n.Offload != want || again.Offload != want {
			t.Errorf("%s is %q, printed and read again %q, want %q", inside, n.Offload, again.Offload, want)
		}
	}
}

// TestPortForwards reads and prints forwards, and finds those that clash with another
// network's.
func TestPortForwards(t *testing.T) {
	const inside = "<vnetd:forward proto='tcp' port='8080-8089' address='203.0.113.1' to='web1' to-port='80' from='198.51.100.0/24 203.0.113.7/32'/>" +
		"<vnetd:forward proto='sctp' port='8080' to='52:54:00:00:00:01'/>"
	n := parse(t, []byte(extended(natHere+inside)))
	if xml := string(n.XML()); !strings.Contains(strings.ReplaceAll(xml, "\n  ", ""), inside) {
		t.Errorf("printed:\n%s", xml)
	}
	if keys := []string{n.PortForwards[0].Key(), n.PortForwards[1].Key()}; !cmp.Equal(keys, []string{"tcp/203.0.113.1:8080-8089", "sctp/8080"}) {
		t.Errorf("keys are %q", keys)
	}
	o := parse(t, []byte(strings.ReplaceAll(extended("<forward mode='nat'><nat><port start='8081' end='8084'/></nat></forward><ip address='10.0.0.1' prefix='24'/>"+
		"<vnetd:forward proto='tcp' port='8085-8090' to='web2'/><vnetd:forward proto='tcp' port='8080' address='203.0.113.2' to='web2'/><vnetd:forward proto='udp' port='8080' to='web2'/>"), ">n<", ">o<")))
	var got []string
	for line := range strings.Lines(netdef.Overlaps(n, nil, []*netdef.Network{o}).Error()) {
		got = append(got, strings.TrimSpace(line))
	}
	if diff := cmp.Diff([]string{
		"network/vnetd:forward[1]/@port: '8080-8089': overlaps the ports 8081-8084 that connections of guests of network 'o' get",
		"network/vnetd:forward[1]/@port: '8080-8089': is forwarded to web2 by network 'o'",
	}, got); diff != "" {
		t.Errorf("clashes (-want +got):\n%s", diff)
	}
}
