package change

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// everything is a document that has all there is; it need not be valid.
const everything = `<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0' xmlns:vnetd='urn:vnetd:network:1'
  ipv6='yes' trustGuestRxFilters='yes'>
  <name>n</name><uuid>00000000-0000-4000-8000-000000000001</uuid><title>t</title><description>d</description>
  <metadata><a:a xmlns:a='urn:a'/></metadata><nonsense/>
  <forward mode='nat' dev='eno1'/><bridge name='br' zone='z' stp='on' delay='3' macTableManager='libvirt'/>
  <mtu size='1400'/><mac address='52:54:00:00:00:01'/><domain name='d'/><dns><txt name='a' value='b'/></dns>
  <vlan><tag id='7'/></vlan><bandwidth><inbound average='1'/></bandwidth><port isolated='yes'/>
  <ip family='ipv6' address='2001:db8::1' prefix='64'/><ip address='192.0.2.1' prefix='24'/><ip address='198.51.100.1' prefix='24'/>
  <route address='10.0.0.0' prefix='8' gateway='192.0.2.2'/><virtualport type='openvswitch'/><portgroup name='p'/>
  <dnsmasq:options><dnsmasq:option value='a'/></dnsmasq:options>
  <vnetd:uplink dev='eno2' vlan='9'/><vnetd:host-access dev='h0'/><vnetd:bridge querier='yes'/><vnetd:access><vnetd:user name='u'/></vnetd:access><vnetd:dhcp identity='mac'/><vnetd:guard level='strict' arp='off'/><vnetd:ipv6 inbound='no'/><vnetd:offload/><vnetd:announce/><vnetd:span vni='7' underlay='203.0.113.1'><vnetd:peer underlay='203.0.113.2'/></vnetd:span><vnetd:record name='r' type='A' value='192.0.2.5'/><vnetd:forward proto='tcp' port='80' to='r'/><vnetd:peer network='p'/><vnetd:rules egress='drop'/>
</network>`

// TestElementsAreTheDocument holds that all elements together are the document, and
// that the table for users has each.
func TestElementsAreTheDocument(t *testing.T) {
	full, err := netdef.Parse([]byte(everything))
	if err != nil {
		t.Fatal(err)
	}
	for v, i := reflect.ValueOf(full).Elem(), 0; i < v.NumField(); i++ {
		// No document that is complete says what is still to be chosen.
		if name := v.Type().Field(i).Name; v.Field(i).IsZero() && !strings.HasPrefix(name, "Chosen") {
			t.Errorf("the document that has all there is lacks %s", name)
		}
	}
	bare := &netdef.Network{Name: full.Name, UUID: full.UUID}
	for _, tt := range []struct{ doc, from *netdef.Network }{{bare, full}, {full, bare}} {
		if diff := cmp.Diff(string(tt.from.XML()), string(with(tt.doc, tt.from, elements()).XML())); diff != "" {
			t.Errorf("with all elements of the other (-want +got):\n%s", diff)
		}
	}
	table, err := os.ReadFile("../../../docs/networks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range elements() {
		if !strings.Contains(string(table), "\n| `"+e.path+"` | ") {
			t.Errorf("docs/networks.md has no row for %s", e.path)
		}
	}
}

// TestMixtures mixes every pair of many documents: what comes of it is valid, each
// element is that of one of the two, and a second time changes nothing.
func TestMixtures(t *testing.T) {
	const nat, v4, v6 = "<forward mode='nat'/>", "<ip address='192.0.2.1' prefix='24'><dhcp><range start='192.0.2.2' end='192.0.2.99'/></dhcp></ip>",
		"<ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp><range start='2001:db8::2' end='2001:db8::99'/></dhcp></ip>"
	var docs []*netdef.Network
	for _, body := range []string{
		"", v4, v6, v4 + v6, v6 + v4, nat + v4, nat + v4 + v6, "<forward mode='open'/>" + v4,
		nat + "<mtu size='1000'/>" + v4, nat + strings.ReplaceAll(v4, "192.0.2", "10.0.0"), nat + v4 + "<ip address='198.51.100.1' prefix='24'/>",
		nat + "<ip address='198.51.100.1' prefix='24'/>" + v4 + "<route address='10.0.0.0' prefix='8' gateway='198.51.100.9'/>",
		nat + v4 + "<route address='10.0.0.0' prefix='8' gateway='192.0.2.9'/>", nat + "<ip address='192.0.2.1' prefix='24'/>",
		"<forward mode='bridge'/><bridge name='br0'/>", "<forward mode='bridge'/><bridge name='br1'/><vnetd:uplink dev='eno1'/>",
		"<bridge stp='off'/><port isolated='yes'/>" + v6, "<dns enable='no'/>" + v4, nat + "<bandwidth><inbound average='1'/></bandwidth>" + v4,
	} {
		n, err := netdef.Parse([]byte("<network xmlns:vnetd='urn:vnetd:network:1'><name>n</name>" + body + "</network>"))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Validate(); err != nil {
			t.Fatal(err)
		}
		docs = append(docs, n)
	}
	for _, live := range docs {
		for _, next := range docs {
			mixed := Harmless(live, next, func(n *netdef.Network) bool { return n.Validate() == nil && Check(live, n) == nil })
			pair := string(live.XML()) + "becoming\n" + string(next.XML()) + "is\n" + string(mixed.XML())
			if err := mixed.Validate(); err != nil {
				t.Errorf("%v:\n%s", err, pair)
			}
			for _, e := range elements() {
				of := func(n *netdef.Network) string {
					return string(with(&netdef.Network{}, n, []element{e}).XML())
				}
				if is := of(mixed); is != of(live) && is != of(next) {
					t.Errorf("%s is of neither:\n%s", e.path, pair)
				}
			}
			again := Harmless(mixed, next, func(n *netdef.Network) bool { return n.Validate() == nil && Check(mixed, n) == nil })
			if diff := cmp.Diff(string(mixed.XML()), string(again.XML())); diff != "" {
				t.Errorf("again (-first +second):\n%s\n%s", diff, pair)
			}
		}
	}
}
