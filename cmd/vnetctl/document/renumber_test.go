package document_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/cmd/vnetctl/document"
)

// many is a network that has addresses wherever it can.
const many = `<network xmlns:vnetd='urn:vnetd:network:1' xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>
<name>web</name><title>192.0.2.0/24</title><metadata><x:y xmlns:x='urn:x' at='192.0.2.1'/></metadata>
<forward mode='nat'/><bridge name='virbr1'/><mac address='52:54:00:00:00:01'/>
<dns><txt name='spf' value='v=spf1 ip4:192.0.2.8 ip4:192.0.2.0/24 ip6:fd00:1::8 ip6:fd00:1::/64 -all'/><host ip='192.0.2.5'><hostname>five</hostname></host><host ip='198.51.100.5'><hostname>other</hostname></host></dns>
<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.10' end='192.0.2.99'/><host mac='52:54:00:00:00:02' ip='192.0.2.20'/></dhcp></ip>
<ip family='ipv6' address='fd00:1::1' prefix='64'><dhcp><range start='fd00:1::100' end='fd00:1::1ff'/></dhcp></ip>
<route address='203.0.113.0' prefix='24' gateway='192.0.2.254'/>
<vnetd:forward proto='tcp' port='80' to='192.0.2.20' from='192.0.2.0/24 198.51.100.0/24'/>
<vnetd:record name='a' type='A' value='192.0.2.7'/>
<vnetd:record name='t' type='TXT' value='Ask 192.0.2.9, http://192.0.2.9:80/ or [fd00:1::9]:80, not 192.0.2.9.example or 2001:db8:fd00:1::9. Or 192.0.2.7-192.0.2.9.'/>
<vnetd:rules egress='reject'><vnetd:rule direction='egress' action='allow' proto='tcp' to='192.0.2.128/25'/></vnetd:rules>
<dnsmasq:options><dnsmasq:option value='dhcp-option=42,192.0.2.3'/></dnsmasq:options>
</network>`

// TestRenumber moves a network to another subnet, and back.
func TestRenumber(t *testing.T) {
	d, err := document.Read(many)
	if err != nil {
		t.Fatal(err)
	}
	before := d.XML()
	four, six := netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd00:1::/64")
	to, to6 := netip.MustParsePrefix("10.7.4.0/22"), netip.MustParsePrefix("fd00:2::/56")
	for _, err := range []error{d.Renumber(four, to), d.Renumber(six, to6)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	after := d.XML()
	for _, want := range []string{
		"<title>192.0.2.0/24</title>", "at=\"192.0.2.1\"", "<host ip='10.7.4.5'>", "<host ip='198.51.100.5'>", "address='10.7.4.1' prefix='22'", "start='10.7.4.10' end='10.7.4.99'", "ip='10.7.4.20'",
		"address='fd00:2::1' prefix='56'", "start='fd00:2::100'", "gateway='10.7.4.254'", "address='203.0.113.0'", "to='10.7.4.20'", "from='10.7.4.0/22 198.51.100.0/24'", "value='10.7.4.7'", "to='10.7.4.128/25'", "42,10.7.4.3", "52:54:00:00:00:02",
		"'v=spf1 ip4:10.7.4.8 ip4:10.7.4.0/22 ip6:fd00:2::8 ip6:fd00:2::/56 -all'",
		"'Ask 10.7.4.9, http://10.7.4.9:80/ or [fd00:2::9]:80, not 192.0.2.9.example or 2001:db8:fd00:1::9. Or 10.7.4.7-10.7.4.9.'",
	} {
		if !strings.Contains(after, want) {
			t.Errorf("%s is not in\n%s", want, after)
		}
	}
	if err := d.Renumber(to, netip.MustParsePrefix("192.0.2.0/26")); err == nil || !strings.Contains(err.Error(), "10.7.4.99") || d.XML() != after {
		t.Errorf("a subnet that is too small: %v, and the document is\n%s", err, d.XML())
	}
	for _, err := range []error{d.Renumber(to, four), d.Renumber(to6, six)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := strings.Replace(d.XML(), "address='192.0.2.1' prefix='24'", "address='192.0.2.1' netmask='255.255.255.0'", 1); got != before {
		t.Errorf("there and back:\n%s\nwas\n%s", got, before)
	}
}

// TestCopyLeavesSpan copies a network that spans hosts: its number there stays its own, and so does what the tunnel
// takes of the MTU.
func TestCopyLeavesSpan(t *testing.T) {
	d, err := document.Read("<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><mtu size='1450'/><ip address='192.0.2.1' netmask='255.255.255.0'/>" +
		"<vnetd:span vni='7'><vnetd:peer underlay='203.0.113.2'/><vnetd:peer underlay='203.0.113.3'/></vnetd:span></network>")
	if err != nil {
		t.Fatal(err)
	}
	if left := d.Copy("more"); !slices.Equal(left, []string{"the span to other hosts with VNI 7"}) || strings.Contains(d.XML(), "span") || strings.Contains(d.XML(), "mtu") {
		t.Errorf("left out are %q, and the copy is\n%s", left, d.XML())
	}
}
