package netdef_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// faultRow is a definition and everything that is wrong with it.
type faultRow struct {
	name, xml string
	want      []string
}

// network wraps elements into a network with a name.
func network(inside string) string {
	return "<network><name>n</name>" + inside + "</network>"
}

// subnet wraps elements into an isolated network's <ip>.
func subnet(inside string) string {
	return network("<ip address='192.0.2.1' netmask='255.255.255.0'>" + inside + "</ip>")
}

// subnet6 is subnet in IPv6.
func subnet6(inside string) string {
	return network("<ip family='ipv6' address='2001:db8::1' prefix='64'>" + inside + "</ip>")
}

func faultRows() []faultRow {
	return slices.Concat(documentRows(), identityRows(), modeRows(), natRows(), ipRows(), rangeRows(), hostRows(),
		routeRows(), dnsRows(), portRows(), poolRows(), extensionRows(), policyRows())
}

func documentRows() []faultRow {
	return []faultRow{
		{"empty", "", []string{"line 1: no element found, want <network>"}},
		{"truncated", "<network>\n<name>n</name>\n<ip address='1", []string{"line 3: not well-formed XML: unexpected EOF"}},
		{"unclosed", "<network>\n<name>n</name>\n", []string{"line 3: the document ends inside <network>, want </network>"}},
		{"wrong end tag", "<network>\n</net>", []string{"line 2: </net> does not close anything here, want </network>"}},
		{"end tag alone", "</network>", []string{"line 1: </network> does not close anything here, want no more end tags"}},
		{"text after", "<network/>\nfoo", []string{`line 2: text outside of the root element: "foo"`}},
		{"second root", "<network/>\n<network/>", []string{"line 2: <network> after the end of <network>"}},
		{"other root", "<domain/>", []string{"the document is a <domain>, want <network>"}},
		{"default namespace", "<network xmlns='urn:x'/>", []string{"the document is a <network>, want <network>"}},
		{"doctype", "<!DOCTYPE network [<!ENTITY a 'b'>]>\n<network/>", []string{"line 1: a document type declaration is not accepted, want <network> alone"}},
		{"entity", "<network>\n<name>&a;</name></network>", []string{"line 2: not well-formed XML: invalid character entity &a;"}},
		{"encoding", "<?xml version='1.0' encoding='latin1'?><network/>", []string{`line 1: xml: opening charset "latin1": want UTF-8, not latin1`}},
		{"attribute twice", "<network ipv6='yes' ipv6='no'/>", []string{"line 1: <network> has the attribute ipv6 twice"}},
		{"prefix", "<network><x:y/></network>", []string{"line 1: the namespace prefix of <x:y> is not declared"}},
		{"attribute prefix", "<network x:y='1'/>", []string{"line 1: the namespace prefix of x:y in <network> is not declared"}},
		{"deep", strings.Repeat("<network>", 65), []string{"line 1: elements nested more than 64 deep"}},
		{"many attributes", "<network" + strings.Repeat(" a='1'", 65) + "/>", []string{"line 1: <network> has 65 attributes, want at most 64"}},
		{"large", "<network>" + strings.Repeat(" ", 4<<20), []string{"the definition has 4194313 bytes, want at most 4194304"}},
	}
}

func identityRows() []faultRow {
	return []faultRow{
		{"no name", "<network/>", []string{"network/name: missing, want a name"}},
		{"slash", "<network><name>a/b</name></network>", []string{"network/name: 'a/b': want a name without '/'"}},
		{"dots", "<network><name>..</name></network>", []string{"network/name: '..': not a name for a file, which it becomes"}},
		{"newline", "<network><name>a\nb</name></network>", []string{"network/name: 'a b': want a name without line breaks and control characters"}},
		{"long name", "<network><name>" + strings.Repeat("a", 201) + "</name></network>", []string{
			"network/name: '" + strings.Repeat("a", 100) + "...': the name has 201 bytes, want at most 200",
		}},
		{"uuid", network("<uuid>123</uuid>"), []string{
			"network/uuid: '123': not a UUID, want 32 hexadecimal digits like 40b7c068-9791-4466-bfa6-77ca0bedb2e4",
		}},
		{"title", network("<title>a\nb</title>"), []string{"network/title: 'a b': want a title on one line"}},
		{"ipv6", "<network ipv6='maybe'><name>n</name></network>", []string{"network/@ipv6: 'maybe': want yes or no"}},
		{"bridge too long", network("<bridge name='virbr-much-too-long'/>"), []string{
			"network/bridge/@name: 'virbr-much-too-long': the name has 19 bytes, want at most 15",
		}},
		{"bridge slash", network("<bridge name='a/b'/>"), []string{"network/bridge/@name: 'a/b': want a name without '/', ':' and '%'"}},
		{"mac of zeros", network("<mac address='00:00:00:00:00:00'/>"), []string{
			"network/mac/@address: '00:00:00:00:00:00': the address of no card, want one that is not all zero",
		}},
		{"bridge pattern", network("<bridge name='virbr+'/>"), []string{
			"network/bridge/@name: 'virbr+': no name for a firewall rule, want it not to begin with '-' or '!' nor to end in '+', and without quotes and backslash",
		}},
		{"bridge blank", network("<bridge name='a b'/>"), []string{"network/bridge/@name: 'a b': want a name without blanks"}},
		{"bridge dot", network("<bridge name='.'/>"), []string{"network/bridge/@name: '.': not a name for a network device"}},
		{"bridge all", network("<bridge name='all'/>"), []string{"network/bridge/@name: 'all': not a name for a network device"}},
		{"bridge percent", network("<bridge name='br%s'/>"), []string{"network/bridge/@name: 'br%s': want a name without '/', ':' and '%'"}},
		{"bridge two templates", network("<bridge name='%d%d'/>"), []string{"network/bridge/@name: '%d%d': want a name without '/', ':' and '%'"}},
		{"delay", network("<bridge delay='-1'/>"), []string{"network/bridge/@delay: '-1': want a number from 0 to 42949671"}},
		{"mac table", network("<bridge macTableManager='me'/>"), []string{"network/bridge/@macTableManager: 'me': want kernel or libvirt"}},
		{"mac", network("<mac address='52:54:00:12:34'/>"), []string{
			"network/mac/@address: '52:54:00:12:34': not a MAC address, want six octets like 52:54:00:12:34:56",
		}},
		{"mac multicast", network("<mac address='01:00:5e:00:53:01'/>"), []string{
			"network/mac/@address: '01:00:5e:00:53:01': a multicast address, want the lowest bit of the first octet clear",
		}},
		{"mtu", network("<mtu size='70000'/>"), []string{"network/mtu/@size: '70000': want a number from 0 to 65535"}},
		{"mtu small", network("<mtu size='60'/>"), []string{"network/mtu/@size: '60': want 68 to 65535"}},
		{"mtu ipv6", network("<mtu size='1279'/><ip family='ipv6' address='2001:db8::1' prefix='64'/>"), []string{
			"network/mtu/@size: '1279': want at least 1280, which the network's IPv6 needs",
		}},
		{"domain", network("<domain name='a..b'/>"), []string{"network/domain/@name: 'a..b': want labels of 1 to 63 characters between the dots"}},
		{"register", network("<domain name='a' register='yes'/>"), []string{"network/domain/@register: 'yes': only allowed with localOnly='yes'"}},
	}
}

func modeRows() []faultRow {
	return []faultRow{
		{"mode", network("<forward mode='nats'/>"), []string{
			"network/forward/@mode: 'nats': unknown forward mode, want one of none, nat, route, open, bridge, private, vepa, passthrough, hostdev",
		}},
		{"nat without ip", network("<forward/>"), []string{"network/forward/@mode: 'nat': needs an <ip>, and the network has none"}},
		{"route without ip", network("<forward mode='route'/>"), []string{"network/forward/@mode: 'route': needs an <ip>, and the network has none"}},
		{"two devices", network("<forward mode='nat'><interface dev='eno1'/><interface dev='eno2'/></forward><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/forward/interface[2]/@dev: 'eno2': only one interface is allowed in mode nat",
		}},
		{"device mismatch", network("<forward mode='route' dev='eno1'><interface dev='eno2'/></forward><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/forward/@dev: 'eno1': want the same device as the first <interface>, 'eno2'",
		}},
		{"device name", network("<forward mode='route' dev='eno1 eno2'/><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/forward/@dev: 'eno1 eno2': want a name without blanks",
		}},
		{"device missing", network("<forward mode='private'><interface/></forward>"), []string{
			"network/forward/interface[1]/@dev: missing, want the name of an interface",
		}},
		{"device twice", network("<forward mode='private'><interface dev='eno1'/><interface dev='eno1'/></forward>"), []string{
			"network/forward/interface[2]/@dev: 'eno1': want each interface once",
		}},
		{"open with dev", network("<forward mode='open' dev='eno1'/>"), []string{
			"network/forward/@dev: 'eno1': not allowed in mode open, which limits no traffic to an interface",
		}},
		{"limits without bridge", network("<forward mode='bridge'/><bandwidth><inbound average='1'/></bandwidth>"), []string{
			"network/bandwidth: not allowed in mode bridge: the network has no bridge",
		}},
		{"bridge template", network("<forward mode='bridge'/><bridge name='br%d'/>"), []string{
			"network/bridge/@name: 'br%d': want a name without '/', ':' and '%'",
		}},
		{"bridge and dev", network("<forward mode='bridge' dev='eno1'/><bridge name='br0'/>"), []string{
			"network/bridge/@name: 'br0': want either a bridge name or a forward interface in mode bridge, not both",
		}},
		{"bridge with all", network("<forward mode='bridge'/><bridge name='br0' stp='on' delay='2' zone='z'/><mtu size='1400'/>" +
			"<mac address='52:54:00:00:53:01'/><domain name='d'/><dns><txt name='a' value='b'/></dns><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/bridge/@stp: 'on': not allowed in mode bridge: the bridge is the host's",
			"network/bridge/@delay: '2': not allowed in mode bridge: the bridge is the host's",
			"network/bridge/@zone: 'z': not allowed in mode bridge: its traffic is not the network's to filter",
			"network/ip[1]: not allowed in mode bridge: the network has no bridge of its own",
			"network/mac: not allowed in mode bridge: the network has no bridge of its own",
			"network/dns: not allowed in mode bridge: the network has no bridge of its own",
			"network/domain: not allowed in mode bridge: the network has no bridge of its own",
			"network/mtu: not allowed in mode bridge: the network has no bridge of its own",
		}},
		{"vepa with bridge", network("<forward mode='vepa' dev='eno1'/><bridge name='br0' macTableManager='kernel'/>"), []string{
			"network/bridge/@name: 'br0': not allowed in mode vepa, which uses no bridge",
			"network/bridge/@macTableManager: 'kernel': not allowed in mode vepa, which uses no bridge",
		}},
	}
}

// nat wraps elements into the <nat> of a network.
func nat(inside string) string {
	return network("<forward mode='nat'><nat>" + inside + "</nat></forward><ip address='192.0.2.1' prefix='24'/>")
}

func natRows() []faultRow {
	return []faultRow{
		{"nat in route", network("<forward mode='route'><nat ipv6='yes'/></forward><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/forward/nat: only allowed in mode nat, not in route",
		}},
		{"port reversed", nat("<port start='2000' end='1000'/>"), []string{
			"network/forward/nat/port/@end: '1000': want a port after the start 2000: the range is reversed",
		}},
		{"single port", nat("<port start='2000' end='2000'/>"), []string{
			"network/forward/nat/port/@end: '2000': want a port after the start 2000: a range of a single port can't serve a network",
		}},
		{"port missing", nat("<port start='2000'/>"), []string{"network/forward/nat/port/@end: missing, want a number from 0 to 65535"}},
		{"port too high", nat("<port start='2000' end='65536'/>"), []string{
			"network/forward/nat/port/@end: '65536': want a number from 0 to 65535",
		}},
		{"two ports", nat("<port start='1' end='2'/><port start='3' end='4'/>"), []string{
			"network/forward/nat/port[2]: only one <port> is allowed",
		}},
		{"address", nat("<address start='2001:db8::1' end='2001:db8::2'/>"), []string{
			"network/forward/nat/address/@start: '2001:db8::1': want an IPv4 address: IPv6 is translated to the interface's own",
		}},
		{"address reversed", nat("<address start='203.0.113.9' end='203.0.113.2'/>"), []string{
			"network/forward/nat/address/@end: '203.0.113.2': before the start 203.0.113.9: the range is reversed",
		}},
		{"address end missing", nat("<address start='203.0.113.9'/>"), []string{
			"network/forward/nat/address/@end: missing, want an IP address",
		}},
	}
}

func ipRows() []faultRow {
	return []faultRow{
		{"many addresses", network(strings.Repeat("<ip address='192.0.2.1'/>", 257)), []string{
			"network/ip[257]: more than 256 <ip> elements",
		}},
		{"no address", network("<ip/>"), []string{"network/ip[1]/@address: missing, want an IP address"}},
		{"bad address", network("<ip address='192.0.2'/>"), []string{
			"network/ip[1]/@address: '192.0.2': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
		}},
		{"zone", network("<ip family='ipv6' address='fe80::1%eth0'/>"), []string{
			"network/ip[1]/@address: 'fe80::1%eth0': want an IP address without a zone",
		}},
		{"multicast", network("<ip address='224.0.0.1' prefix='24'/>"), []string{"network/ip[1]/@address: '224.0.0.1': want a unicast address"}},
		{"class E", network("<ip address='240.0.0.1'/>"), []string{
			"network/ip[1]/@address: '240.0.0.1': not of class A, B or C, want a netmask or prefix",
		}},
		{"bad netmask", network("<ip address='192.0.2.1' netmask='255.0.255.0'/>"), []string{
			"network/ip[1]/@netmask: '255.0.255.0': not a netmask, want one like 255.255.255.0",
		}},
		{"unreadable netmask", network("<ip address='192.0.2.1' netmask='24'><dhcp><range start='198.51.100.2' end='198.51.100.1'/></dhcp></ip>"), []string{
			"network/ip[1]/@netmask: '24': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
			"network/ip[1]/dhcp/range[1]/@end: '198.51.100.1': before the start 198.51.100.2: the range is reversed",
		}},
		{"netmask and prefix", network("<ip address='192.0.2.1' netmask='255.255.255.0' prefix='24'/>"), []string{
			"network/ip[1]/@netmask: '255.255.255.0': want either netmask or prefix, not both",
		}},
		{"netmask of IPv6", network("<ip family='ipv6' address='2001:db8::1' netmask='255.255.255.0'/>"), []string{
			"network/ip[1]/@netmask: '255.255.255.0': not allowed with an IPv6 address, want prefix",
		}},
		{"long prefix", network("<ip address='192.0.2.1' prefix='33'/>"), []string{"network/ip[1]/@prefix: '33': want at most 32"}},
		{"unreadable prefix", network("<ip address='192.0.2.1' prefix='/24'/>"), []string{
			"network/ip[1]/@prefix: '/24': want a number from 0 to 128",
		}},
		{"family", network("<ip family='inet' address='192.0.2.1'/>"), []string{
			"network/ip[1]/@family: 'inet': unknown address family, want ipv4 or ipv6",
		}},
		{"family ipv6", network("<ip family='ipv6' address='192.0.2.1'/>"), []string{
			"network/ip[1]/@address: '192.0.2.1': want an IPv6 address with family='ipv6'",
		}},
		{"no family", network("<ip address='2001:db8::1'/>"), []string{
			"network/ip[1]/@address: '2001:db8::1': want family='ipv6' with an IPv6 address",
		}},
		{"same subnet", network("<ip address='192.0.2.1' prefix='24'/><ip address='192.0.2.2' netmask='255.255.255.0'/>"), []string{
			"network/ip[2]/@address: '192.0.2.2': the subnet 192.0.2.0/24 is that of network/ip[1]",
		}},
		{"two dhcp", network("<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.2' end='192.0.2.9'/></dhcp></ip>" +
			"<ip address='198.51.100.1' prefix='24'><dhcp><range start='198.51.100.2' end='198.51.100.9'/></dhcp></ip>"), []string{
			"network/ip[2]/dhcp: want DHCP on one <ip> of a family, and it is on network/ip[1]",
		}},
		{"tftp6", subnet6("<tftp root='/srv/tftp'/>"), []string{"network/ip[1]/tftp: not allowed in an IPv6 <ip>"}},
		{"tftp root", subnet("<tftp root='tftp'/>"), []string{"network/ip[1]/tftp/@root: 'tftp': want an absolute path"}},
	}
}

func rangeRows() []faultRow {
	r := func(start, end string) string { return "<dhcp><range start='" + start + "' end='" + end + "'/></dhcp>" }
	lease := func(attrs string) string {
		return subnet("<dhcp><range start='192.0.2.2' end='192.0.2.9'><lease " + attrs + "/></range></dhcp>")
	}
	return []faultRow{
		{"range outside", subnet(r("192.0.2.2", "198.51.100.9")), []string{
			"network/ip[1]/dhcp/range[1]/@end: '198.51.100.9': want an address in the subnet 192.0.2.0/24",
		}},
		{"range reversed", subnet(r("192.0.2.9", "192.0.2.2")), []string{
			"network/ip[1]/dhcp/range[1]/@end: '192.0.2.2': before the start 192.0.2.9: the range is reversed",
		}},
		{"range family", subnet(r("2001:db8::2", "2001:db8::9")), []string{
			"network/ip[1]/dhcp/range[1]/@start: '2001:db8::2': want an address in the subnet 192.0.2.0/24",
			"network/ip[1]/dhcp/range[1]/@end: '2001:db8::9': want an address in the subnet 192.0.2.0/24",
		}},
		{"range edges", subnet(r("192.0.2.0", "192.0.2.255")), []string{
			"network/ip[1]/dhcp/range[1]/@start: '192.0.2.0': the network address of 192.0.2.0/24",
			"network/ip[1]/dhcp/range[1]/@end: '192.0.2.255': the broadcast address of 192.0.2.0/24",
		}},
		{"range large", network("<ip address='10.0.0.1'>" + r("10.0.0.2", "10.1.0.2") + "</ip>"), []string{
			"network/ip[1]/dhcp/range[1]/@end: '10.1.0.2': more than 65536 addresses after the start 10.0.0.2",
		}},
		{"range large in IPv6", subnet6(r("2001:db8::2", "2001:db8::1:2")), []string{
			"network/ip[1]/dhcp/range[1]/@end: '2001:db8::1:2': more than 65536 addresses after the start 2001:db8::2",
		}},
		{"range without end", subnet("<dhcp><range start='192.0.2.2'/></dhcp>"), []string{
			"network/ip[1]/dhcp/range[1]/@end: missing, want an IP address",
		}},
		{"short lease", lease("expiry='119' unit='seconds'"), []string{
			"network/ip[1]/dhcp/range[1]/lease/@expiry: '119': want at least 120 seconds, or 0 for no end",
		}},
		{"short lease in minutes", lease("expiry='1'"), []string{
			"network/ip[1]/dhcp/range[1]/lease/@expiry: '1': want at least 120 seconds, or 0 for no end",
		}},
		{"long lease", lease("expiry='9999999999' unit='hours'"), []string{
			"network/ip[1]/dhcp/range[1]/lease/@expiry: '9999999999': want less than 4294967294 seconds, or 0 for no end",
		}},
		{"lease unit", lease("expiry='5' unit='days'"), []string{
			"network/ip[1]/dhcp/range[1]/lease/@unit: 'days': want seconds or minutes or hours",
		}},
		{"bootp without file", subnet("<dhcp><range start='192.0.2.2' end='192.0.2.9'/><bootp server='192.0.2.1'/></dhcp>"), []string{
			"network/ip[1]/dhcp/bootp/@file: missing, want the file to boot",
		}},
		{"bootp file", subnet("<dhcp><range start='192.0.2.2' end='192.0.2.9'/><bootp file='" + strings.Repeat("a", 128) + "'/></dhcp>"), []string{
			"network/ip[1]/dhcp/bootp/@file: '" + strings.Repeat("a", 100) + "...': the name has 128 bytes, want at most 127",
		}},
		{"bootp server", subnet("<dhcp><range start='192.0.2.2' end='192.0.2.9'/><bootp file='f' server='2001:db8::1'/></dhcp>"), []string{
			"network/ip[1]/dhcp/bootp/@server: '2001:db8::1': want an IPv4 address",
		}},
	}
}

func hostRows() []faultRow {
	const at = "network/ip[1]/dhcp/host[1]"
	host := func(attrs string) string { return subnet("<dhcp><host " + attrs + "/></dhcp>") }
	host6 := func(attrs string) string { return subnet6("<dhcp><host " + attrs + "/></dhcp>") }
	return []faultRow{
		{"host without ip", host("name='a'"), []string{at + "/@ip: missing, want an IP address"}},
		{"host alone", host("ip='192.0.2.9'"), []string{at + ": want a mac or a name to know the client by"}},
		{"host family", host("name='a' ip='2001:db8::9'"), []string{
			at + "/@ip: '2001:db8::9': want an address of the same family as 192.0.2.1",
		}},
		{"host mac", host("mac='52:54:00:00:53:zz' ip='192.0.2.9'"), []string{
			at + "/@mac: '52:54:00:00:53:zz': not a MAC address, want six octets like 52:54:00:12:34:56",
		}},
		{"host multicast", host("mac='01:00:5e:00:53:01' ip='192.0.2.9'"), []string{
			at + "/@mac: '01:00:5e:00:53:01': a multicast address, want the lowest bit of the first octet clear",
		}},
		{"host name", host("name='-a' ip='192.0.2.9'"), []string{at + "/@name: '-a': want a host name that begins with a letter or digit"}},
		{"host name comma", host("name='x,infinite' ip='192.0.2.9'"), []string{
			at + "/@name: 'x,infinite': want letters, digits, '-', '_' and '.' only, not ','",
		}},
		{"host name empty", host("name='' mac='52:54:00:00:53:01' ip='192.0.2.9'"), []string{at + "/@name: empty, want a host name"}},
		{"host id", host6("id='0g:01' ip='2001:db8::9'"), []string{at + "/@id: '0g:01': want hexadecimal digits and colons only"}},
		{"host mac in IPv6", host6("mac='52:54:00:00:53:01' ip='2001:db8::9'"), []string{
			at + "/@mac: '52:54:00:00:53:01': not allowed in IPv6, where a client has an id",
		}},
		{"host alone in IPv6", host6("ip='2001:db8::9'"), []string{at + ": want an id or a name to know the client by"}},
	}
}

func routeRows() []faultRow {
	const at = "network/route[1]"
	route := func(attrs string) string {
		return network("<ip address='192.0.2.1' prefix='24'/><route " + attrs + "/>")
	}
	return []faultRow{
		{"route alone", route(""), []string{at + "/@address: missing, want a network address"}},
		{"route host bits", route("address='198.51.100.1' prefix='24' gateway='192.0.2.9'"), []string{
			at + "/@address: '198.51.100.1': not a network address, want 198.51.100.0",
		}},
		{"route without mask", route("address='198.51.100.0' gateway='192.0.2.9'"), []string{
			at + "/@address: '198.51.100.0': want a netmask or prefix with the address",
		}},
		{"route without gateway", route("address='198.51.100.0' prefix='24'"), []string{
			at + "/@gateway: missing, want the address of the gateway",
		}},
		{"route gateway", route("address='198.51.100.0' prefix='24' gateway='203.0.113.1'"), []string{
			at + "/@gateway: '203.0.113.1': not reachable: want an address in the subnet of an <ip>",
		}},
		{"route gateway family", route("address='198.51.100.0' prefix='24' gateway='2001:db8::1'"), []string{
			at + "/@gateway: '2001:db8::1': want an address of the same family as 198.51.100.0",
		}},
		{"route both", route("address='198.51.100.0' prefix='24' netmask='255.255.255.0' gateway='192.0.2.9'"), []string{
			at + "/@netmask: '255.255.255.0': want either netmask or prefix, not both",
		}},
		{"route metric", route("address='198.51.100.0' prefix='24' gateway='192.0.2.9' metric='0'"), []string{
			at + "/@metric: '0': want a number from 1 to 4294967295",
		}},
	}
}

func dnsRows() []faultRow {
	dns := func(inside string) string { return network("<dns>" + inside + "</dns>") }
	return []faultRow{
		{"dns off", network("<dns enable='no'><txt name='a' value='b'/></dns>"), []string{
			"network/dns/@enable: 'no': want no forwarders and records where DNS is off",
		}},
		{"forwarder", dns("<forwarder/>"), []string{"network/dns/forwarder[1]: want an addr, a domain or both"}},
		{"forwarder addr", dns("<forwarder addr='dns.example'/>"), []string{
			"network/dns/forwarder[1]/@addr: 'dns.example': not an IP address, want one like 192.0.2.1 or 2001:db8::1",
		}},
		{"forwarder port", dns("<forwarder domain='a.example' port='53'/>"), []string{
			"network/dns/forwarder[1]/@port: '53': not allowed without addr",
		}},
		{"txt", dns("<txt name='a b'/>"), []string{
			"network/dns/txt[1]/@value: missing, want the text of the record",
			"network/dns/txt[1]/@name: 'a b': want visible characters other than the comma, not ' '",
		}},
		{"txt name", dns("<txt name='a,b' value='c'/>"), []string{"network/dns/txt[1]/@name: 'a,b': want visible characters other than the comma, not ','"}},
		{"srv", dns("<srv/>"), []string{
			"network/dns/srv[1]/@service: missing, want the name of a service",
			"network/dns/srv[1]/@protocol: missing, want a protocol like tcp",
		}},
		{"srv chars", dns("<srv service='a.b' protocol='t_p'/>"), []string{
			"network/dns/srv[1]/@service: 'a.b': want letters, digits and _-+/* only",
			"network/dns/srv[1]/@protocol: 't_p': want letters, digits and -+/ only",
		}},
		{"srv port", dns("<srv service='a' protocol='tcp' port='70000' target='t'/>"), []string{
			"network/dns/srv[1]/@port: '70000': want a number from 1 to 65535",
		}},
		{"srv target", dns("<srv service='a' protocol='tcp' weight='7'/>"), []string{
			"network/dns/srv[1]/@weight: '7': not allowed without target",
		}},
		{"host", dns("<host/>"), []string{
			"network/dns/host[1]/@ip: missing, want an IP address",
			"network/dns/host[1]/hostname: missing, want at least one",
		}},
		{"hostname", dns("<host ip='192.0.2.9'><hostname/><hostname>a b</hostname></host>"), []string{
			"network/dns/host[1]/hostname[1]: empty, want a host name",
			"network/dns/host[1]/hostname[2]: 'a b': want visible characters other than the comma, not ' '",
		}},
	}
}

func portRows() []faultRow {
	port := func(inside string) string {
		return network("<forward mode='bridge'/><bridge name='br0'/>" + inside)
	}
	const noVLAN = ": not allowed in mode none with this virtualport: only ports of a host's bridge, Open vSwitch or hardware have a vlan"
	return []faultRow{
		{"vlan mode", network("<vlan><tag id='1'/></vlan>"), []string{"network/vlan" + noVLAN}},
		{"vlan mode in group", network("<portgroup name='a'><vlan><tag id='1'/></vlan></portgroup>"), []string{"network/portgroup[1]/vlan" + noVLAN}},
		{"vlan empty", port("<vlan/>"), []string{"network/vlan/tag: missing, want at least one"}},
		{"vlan id", port("<vlan><tag/><tag id='4096'/></vlan>"), []string{
			"network/vlan/tag[1]/@id: missing, want a number from 0 to 4095",
			"network/vlan/tag[2]/@id: '4096': want a number from 0 to 4095",
		}},
		{"vlan native", port("<vlan><tag id='1' nativeMode='tagged'/><tag id='2' nativeMode='untagged'/></vlan>"), []string{
			"network/vlan: want one native tag at most",
		}},
		{"vlan native mode", port("<vlan><tag id='1' nativeMode='default'/></vlan>"), []string{
			"network/vlan/tag[1]/@nativeMode: 'default': want tagged or untagged",
		}},
		{"vlan trunk", port("<vlan trunk='no'><tag id='1'/><tag id='2'/></vlan>"), []string{
			"network/vlan/@trunk: 'no': want trunk='yes' with more than one tag",
		}},
		{"vlan trunk native", port("<vlan trunk='no'><tag id='1' nativeMode='tagged'/></vlan>"), []string{
			"network/vlan/@trunk: 'no': want trunk='yes' with a native tag",
		}},
		{"vlan trunk word", port("<vlan trunk='on'><tag id='1'/></vlan>"), []string{"network/vlan/@trunk: 'on': want yes or no"}},
		{"bandwidth", network("<bandwidth classID='3'><inbound peak='1'/><outbound average='1' floor='2'/></bandwidth>"), []string{
			"network/bandwidth/@classID: '3': not allowed here: it belongs to a port",
			"network/bandwidth/inbound/@average: missing, want a rate in kB/s",
			"network/bandwidth/outbound/@floor: '2': not allowed here: it belongs to a port",
		}},
		{"bandwidth mode", network("<forward mode='private' dev='eno1'/><bandwidth><inbound average='1'/></bandwidth>"), []string{
			"network/bandwidth: not allowed in mode private: the network has no bridge",
		}},
		{"burst", network("<bandwidth><inbound average='1' burst='4194304'/></bandwidth>"), []string{
			"network/bandwidth/inbound/@burst: '4194304': want a number from 0 to 4194303",
		}},
		{"port", network("<port isolated='1'/>"), []string{"network/port/@isolated: '1': want yes or no"}},
		{"profile type", network("<virtualport type='x'/>"), []string{
			"network/virtualport/@type: 'x': want 802.1Qbg or 802.1Qbh or openvswitch or midonet",
		}},
		{"profile without type", network("<virtualport><parameters profileid='p'/></virtualport>"), []string{
			"network/virtualport/@type: missing, want 802.1Qbg, 802.1Qbh, openvswitch or midonet",
		}},
		{"profile extra", port("<virtualport type='openvswitch'><parameters managerid='1'/></virtualport>"), []string{
			"network/virtualport/parameters/@managerid: '1': not allowed with type='openvswitch'",
		}},
		{"profile number", port("<virtualport type='802.1Qbg'><parameters managerid='0x100'/></virtualport>"), []string{
			"network/virtualport/parameters/@managerid: '0x100': want a number from 0 to 255 or 0xff",
		}},
		{"profile name", port("<virtualport type='802.1Qbh'><parameters profileid='" + strings.Repeat("a", 40) + "'/></virtualport>"), []string{
			"network/virtualport/parameters/@profileid: '" + strings.Repeat("a", 40) + "': the name has 40 bytes, want at most 39",
		}},
		{"groups", network("<portgroup/><portgroup name='a' default='yes'/><portgroup name='a' default='yes'/>"), []string{
			"network/portgroup[1]/@name: missing, want a name",
			"network/portgroup[3]/@name: 'a': the name is that of network/portgroup[2]",
			"network/portgroup[3]/@default: 'yes': want one default group, and network/portgroup[2] is",
		}},
		{"dnsmasq", "<network xmlns:d='http://libvirt.org/schemas/network/dnsmasq/1.0'><name>n</name><d:options><d:option/></d:options></network>", []string{
			"network/d:options[1]/d:option[1]/@value: missing, want a line of dnsmasq's configuration",
		}},
		{"undeclared prefix", "<network xmlns:x=''/>", []string{"line 1: xmlns:x in <network> is empty, want a namespace"}},
	}
}

func poolRows() []faultRow {
	hostdev := func(inside string) string { return network("<forward mode='hostdev'>" + inside + "</forward>") }
	return []faultRow{
		{"pool of two kinds", hostdev("<pf dev='eno1'/><address type='pci' bus='1'/>"), []string{
			"network/forward: want one of dev or <interface>, <address> and <pf>",
		}},
		{"pool of interfaces", hostdev("<interface dev='eno1'/>"), []string{
			"network/forward/@dev: 'eno1': not allowed in mode hostdev, want <address type='pci'> or <pf>",
		}},
		{"pool elsewhere", network("<forward mode='vepa'><address type='pci'/></forward>"), []string{
			"network/forward/address[1]: not allowed in mode vepa, only in mode hostdev",
		}},
		{"pool twice", hostdev("<address type='pci' bus='1'/><address type='pci' bus='0x01'/>"), []string{
			"network/forward/address[2]: want each device once",
		}},
		{"pool type", hostdev("<address type='usb'/>"), []string{"network/forward/address[1]/@type: 'usb': want pci"}},
		{"pool function", hostdev("<address type='pci' function='8'/>"), []string{
			"network/forward/address[1]/@function: '8': want a number from 0 to 7 or 0x7",
		}},
		{"pool driver", hostdev("<driver name='x'/><pf dev='eno1'/>"), []string{"network/forward/driver/@name: 'x': want kvm or vfio or xen"}},
		{"physical function", hostdev("<pf/>"), []string{"network/forward/pf/@dev: missing, want the name of an interface"}},
		{"physical function name", hostdev("<pf dev='a/b'/>"), []string{"network/forward/pf/@dev: 'a/b': want a name without '/', ':' and '%'"}},
		{"two physical functions", hostdev("<pf dev='eno1'/><pf dev='eno2'/>"), []string{"network/forward/pf[2]: only one <pf> is allowed"}},
		{"physical function of nat", network("<forward mode='nat'><pf dev='eno1'/></forward><ip address='192.0.2.1' prefix='24'/>"), []string{
			"network/forward/pf/@dev: 'eno1': not allowed in mode nat, which uses no virtual functions",
		}},
	}
}

// TestFragments checks networks that were made by hand with text that can't be
// kept.
func TestFragments(t *testing.T) {
	n := &netdef.Network{
		Name: "n",
		Metadata: []netdef.Fragment{
			{Namespace: "urn:a", XML: "<a xmlns='urn:a'/>"},
			{Namespace: "urn:a", XML: "<a xmlns='urn:a'/>"},
			{Namespace: "urn:b", XML: "<a xmlns='urn:a'/>"},
			{Namespace: "urn:c", XML: "<a xmlns='urn:c'></network>"},
		},
	}
	want := []string{
		"network/metadata: 'urn:a': want one element of each namespace",
		"network/metadata: 'urn:b': want an element of the namespace 'urn:b'",
		"network/metadata: 'urn:c': line 1: </network> does not close anything here, want </a>",
	}
	if diff := cmp.Diff(want, strings.Split(n.Validate().Error(), "\n")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestFaults(t *testing.T) {
	for _, tt := range faultRows() {
		t.Run(tt.name, func(t *testing.T) {
			n, err := netdef.Parse([]byte(tt.xml))
			if err == nil {
				err = n.Validate()
			}
			var faults netdef.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want Faults", err)
			}
			if diff := cmp.Diff(tt.want, strings.Split(faults.Error(), "\n")); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
			if f := (netdef.Fault{}); !errors.As(err, &f) || f != faults[0] {
				t.Errorf("errors.As gives %v, want the first fault", f)
			}
		})
	}
}

// TestFaultsBounded checks that a hostile definition does not make an error of
// the same size.
func TestFaultsBounded(t *testing.T) {
	_, err := netdef.Parse([]byte(network("<dns>" + strings.Repeat("<txt/>", 5000) + "</dns>")))
	lines := strings.Split(err.Error(), "\n")
	if last := lines[len(lines)-1]; len(lines) != 101 || last != "and 4900 more" {
		t.Errorf("got %d lines, the last %q; want 101 and the number left out", len(lines), last)
	}
	if faults := netdef.Faults(nil); !errors.As(err, &faults) || len(faults) != 101 {
		t.Errorf("%d faults are kept, want 100 and the number left out", len(faults))
	}
}

// TestUpdateOfManyFaults checks that an entry that can't work is refused on a
// network that has more faults than an error shows: an earlier version took them.
func TestUpdateOfManyFaults(t *testing.T) {
	n, err := netdef.Parse([]byte(network("<dns><host ip='192.0.2.7'><hostname>a</hostname></host></dns>")))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 150 {
		n.DNS.TXT = append(n.DNS.TXT, netdef.TXT{Name: fmt.Sprintf("bad name %d", i), Value: "v"})
	}
	add := func(xml string) error {
		return n.Update(netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionDNSTXT, Index: -1, XML: []byte(xml)})
	}
	if err := add("<txt name='fine' value='v'/>"); err != nil {
		t.Errorf("an entry without a fault: %v", err)
	}
	if err := add("<txt name='not so fine' value='v'/>"); err == nil || !strings.Contains(err.Error(), "not so fine") {
		t.Errorf("an entry with a fault: got %v, want it named", err)
	}
}

// TestManyFaults checks that a definition wrong in many places says so in one
// go: unreadable values and readable ones that can't work.
func TestManyFaults(t *testing.T) {
	_, err := netdef.Parse([]byte(`<network>
  <uuid>x</uuid>
  <forward mode='nat' dev='a-device-name-too-long'/>
  <bridge name='virbr0' delay='x'/>
  <ip address='192.0.2.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.0.2.99' end='192.0.2.2'/>
      <range start='' end='192.0.2.2'/>
      <host name='a'/>
    </dhcp>
  </ip>
</network>`))
	want := []string{
		"network/uuid: 'x': not a UUID, want 32 hexadecimal digits like 40b7c068-9791-4466-bfa6-77ca0bedb2e4",
		"network/bridge/@delay: 'x': want a number from 0 to 42949671",
		"network/ip[1]/dhcp/range[2]/@start: not an IP address, want one like 192.0.2.1 or 2001:db8::1",
		"network/name: missing, want a name",
		"network/forward/@dev: 'a-device-name-too-long': the name has 22 bytes, want at most 15",
		"network/ip[1]/dhcp/range[1]/@end: '192.0.2.2': before the start 192.0.2.99: the range is reversed",
		"network/ip[1]/dhcp/host[1]/@ip: missing, want an IP address",
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}
