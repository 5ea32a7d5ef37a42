package netdef_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// The elements of a port that every port has.
const (
	portUUID  = "<uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>"
	portOwner = "<owner><name>guest</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner>"
	portMAC   = "<mac address='52:54:00:00:53:01'/>"
)

// port wraps elements into a port that has what every port has.
func port(inside string) string {
	return "<networkport>" + portUUID + portOwner + portMAC + inside + "</networkport>"
}

// everyPort has each element and attribute of a port, in no order.
const everyPort = `<networkport>
  <plug type="direct" dev="ens33"/>
  <rxfilters trustGuest="no"/>
  <port isolated="yes"/>
  <vlan><tag id="0" nativeMode="untagged"/><tag id="7"/></vlan>
  <bandwidth classID="3"><outbound average="1"/><inbound floor="10" average="0"/></bandwidth>
  <virtualport><parameters profileid="p"/></virtualport>
  <mac address="52:54:0:0:53:1"/>
  <group>a &amp; b</group>
  <owner><uuid>D54DF46F1AB54A2286184560EF5FAC2C</uuid><name>guest</name></owner>
  <uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>
</networkport>`

func TestPortXML(t *testing.T) {
	const head = `<networkport>
  <uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>
  <owner>
    <name>guest</name>
    <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid>
  </owner>
`
	for _, tt := range []struct{ name, xml, want string }{
		{"everything", everyPort, head + `  <group>a &amp; b</group>
  <mac address='52:54:00:00:53:01'/>
  <virtualport>
    <parameters profileid='p'/>
  </virtualport>
  <bandwidth classID='3'>
    <inbound floor='10'/>
    <outbound average='1'/>
  </bandwidth>
  <vlan trunk='yes'>
    <tag id='0' nativeMode='untagged'/>
    <tag id='7'/>
  </vlan>
  <port isolated='yes'/>
  <rxfilters trustGuest='no'/>
  <plug type='direct' dev='ens33' mode='vepa'/>
</networkport>
`},
		{"hostdev", port("<plug type='hostdev-pci' managed='yes'><driver name='vfio'/><address domain='0' bus='3' slot='0x1f' function='7'/></plug>"), head +
			`  <mac address='52:54:00:00:53:01'/>
  <plug type='hostdev-pci' managed='yes'>
    <driver name='vfio'/>
    <address domain='0x0000' bus='0x03' slot='0x1f' function='0x7'/>
  </plug>
</networkport>
`},
		{"no limits", port("<bandwidth classID='3'/>"), head +
			"  <mac address='52:54:00:00:53:01'/>\n  <bandwidth classID='3'>\n  </bandwidth>\n</networkport>\n"},
		{"says nothing", port("<plug type='none'/><plug/><virtualport/><group/><port/><rxfilters/>"), head +
			"  <mac address='52:54:00:00:53:01'/>\n</networkport>\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, err := netdef.ParsePort([]byte(tt.xml))
			if err != nil {
				t.Fatalf("ParsePort: %v", err)
			}
			if diff := cmp.Diff(tt.want, string(p.XML())); diff != "" {
				t.Errorf("XML (-want +got):\n%s", diff)
			}
		})
	}
}

func portFaultRows() []faultRow {
	return []faultRow{
		{"empty", "<networkport/>", []string{
			"networkport/uuid: missing, want a UUID", "networkport/owner/name: missing, want the name of the guest",
			"networkport/owner/uuid: missing, want a UUID", "networkport/mac/@address: missing, want a MAC address",
		}},
		{"other root", "<network/>", []string{"the document is a <network>, want <networkport>"}},
		{"no XML", "<networkport>", []string{"line 1: the document ends inside <networkport>, want </networkport>"}},
		{"values", "<networkport><uuid>x</uuid><owner><name>g</name><uuid>y</uuid></owner><mac address='z'/><port isolated='1'/><rxfilters trustGuest='2'/></networkport>", []string{
			"networkport/uuid: 'x': not a UUID, want 32 hexadecimal digits like 40b7c068-9791-4466-bfa6-77ca0bedb2e4",
			"networkport/owner/uuid: 'y': not a UUID, want 32 hexadecimal digits like 40b7c068-9791-4466-bfa6-77ca0bedb2e4",
			"networkport/mac/@address: 'z': not a MAC address, want six octets like 52:54:00:12:34:56",
			"networkport/port/@isolated: '1': want yes or no", "networkport/rxfilters/@trustGuest: '2': want yes or no",
		}},
		{"multicast", "<networkport>" + portUUID + portOwner + "<mac address='01:00:5e:00:00:01'/></networkport>", []string{
			"networkport/mac/@address: '01:00:5e:00:00:01': a multicast address, want the lowest bit of the first octet clear",
		}},
		{"rates", port("<bandwidth classID='x'><inbound peak='1' floor='2'/><outbound floor='3'/></bandwidth>"), []string{
			"networkport/bandwidth/@classID: 'x': want a number from 0 to 4294967295",
			"networkport/bandwidth/inbound/@average: missing, which peak and burst need",
			"networkport/bandwidth/outbound/@floor: '3': not allowed, only inbound has a floor",
		}},
		{"no rate", port("<bandwidth><inbound/></bandwidth>"), []string{
			"networkport/bandwidth/inbound/@average: missing, want an average or a floor in kB/s",
		}},
		{"vlan and profile", port("<vlan/><virtualport type='802.1Qbh'><parameters profileid='" + strings.Repeat("x", 40) + "'/></virtualport>"), []string{
			"networkport/virtualport/parameters/@profileid: '" + strings.Repeat("x", 40) + "': the name has 40 bytes, want at most 39",
			"networkport/vlan/tag: missing, want at least one",
		}},
		{"plug type", port("<plug type='tube'/>"), []string{
			"networkport/plug/@type: 'tube': want none or network or bridge or direct or hostdev-pci",
		}},
		{"plug bridge", port("<plug type='network' macTableManager='x'/>"), []string{
			"networkport/plug/@macTableManager: 'x': want kernel or libvirt",
		}},
		{"plug without bridge", port("<plug type='bridge'/>"), []string{"networkport/plug/@bridge: missing, want the name of an interface"}},
		{"plug direct", port("<plug type='direct' dev='a b' mode='tap'/>"), []string{
			"networkport/plug/@mode: 'tap': want vepa or private or bridge or passthrough",
			"networkport/plug/@dev: 'a b': want a name without blanks",
		}},
		{"plug hostdev", port("<plug type='hostdev-pci' managed='maybe'/>"), []string{
			"networkport/plug/@managed: 'maybe': want yes or no", "networkport/plug/address: missing, want the PCI address of a device",
		}},
	}
}

func TestPortFaults(t *testing.T) {
	for _, tt := range portFaultRows() {
		t.Run(tt.name, func(t *testing.T) {
			_, err := netdef.ParsePort([]byte(tt.xml))
			var faults netdef.Faults
			if !errors.As(err, &faults) {
				t.Fatalf("got %v, want Faults", err)
			}
			if diff := cmp.Diff(tt.want, strings.Split(faults.Error(), "\n")); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
	made := &netdef.Port{UUID: "X", Plug: &netdef.Plug{Type: "tube"}}
	if err := made.Validate(); !strings.Contains(text(err), "networkport/plug/@type: 'tube': want network") {
		t.Errorf("port made by hand: got %v, want a fault of its plug's type", err)
	}
}

func TestPortIgnored(t *testing.T) {
	p, err := netdef.ParsePort([]byte(port("<plug type='direct' dev='ens33' bridge='br0'/><bogus/>")))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"networkport/plug/@bridge", "networkport/bogus"}; !slices.Equal(p.Ignored, want) {
		t.Errorf("got %v, want %v", p.Ignored, want)
	}
}

func FuzzParsePort(f *testing.F) {
	f.Add([]byte(everyPort))
	f.Add([]byte(port("<plug type='hostdev-pci' managed='yes'><driver name='vfio'/><address bus='3'/></plug>")))
	f.Add([]byte(port("<plug type='network' bridge='virbr0' macTableManager='libvirt'/>")))
	for _, tt := range portFaultRows() {
		f.Add([]byte(tt.xml))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		p, err := netdef.ParsePort(src)
		if err != nil {
			return
		}
		if err := p.Validate(); err != nil {
			t.Errorf("Validate of a port without faults: %v", err)
		}
		again, err := netdef.ParsePort(p.XML())
		if err != nil {
			t.Fatalf("ParsePort of our own print: %v\n%s", err, p.XML())
		}
		p.Ignored, again.Ignored = nil, nil
		if diff := cmp.Diff(p, again); diff != "" {
			t.Errorf("printed and parsed again (-want +got):\n%s", diff)
		}
	})
}

// TestPortPlug holds what ports of each kind of network are plugged into.
func TestPortPlug(t *testing.T) {
	for inside, want := range map[string]netdef.PlugType{
		"": netdef.PlugNetwork,
		"<forward mode='nat'/><ip address='192.0.2.1'/>":                              netdef.PlugNetwork,
		"<forward mode='bridge'/><bridge name='br0'/>":                                netdef.PlugBridge,
		"<forward mode='bridge' dev='eth0'/>":                                         netdef.PlugDirect,
		"<forward mode='bridge'/>":                                                    netdef.PlugDirect,
		"<forward mode='private'><interface dev='eth0'/></forward>":                   netdef.PlugDirect,
		"<forward mode='passthrough'><pf dev='eth0'/></forward>":                      netdef.PlugDirect,
		"<forward mode='hostdev'><pf dev='eth0'/></forward>":                          netdef.PlugHostdevPCI,
		"<forward mode='bridge'/><bridge name='o'/><virtualport type='openvswitch'/>": netdef.PlugBridge,
	} {
		if got := parse(t, []byte(network(inside))).PortPlug(); got != want {
			t.Errorf("%s: %s, want %s", inside, got, want)
		}
	}
}

// TestLivePool prints the pool of an active network as libvirt does.
func TestLivePool(t *testing.T) {
	connections := netdef.Connections{Ports: 3, Devs: map[string]int{"eth0": 2, "eth1": 1}}
	for inside, want := range map[string]string{
		"<forward mode='vepa'><interface dev='eth0'/><interface dev='eth2'/></forward>": "  <forward dev='eth0' mode='vepa'>\n" +
			"    <interface dev='eth0' connections='2'/>\n    <interface dev='eth2'/>\n  </forward>\n",
		"<forward mode='passthrough'><pf dev='ens1'/></forward>": "  <forward mode='passthrough'>\n    <pf dev='ens1'/>\n" +
			"    <interface dev='eth0' connections='2'/>\n    <interface dev='eth1' connections='1'/>\n    <interface dev='eth2'/>\n  </forward>\n",
		"<forward mode='hostdev' managed='yes'><pf dev='ens1'/></forward>": "  <forward mode='hostdev' managed='yes'>\n    <pf dev='ens1'/>\n" +
			"    <address type='pci' domain='0x0000' bus='0x01' slot='0x10' function='0x2'/>\n  </forward>\n",
	} {
		connections.Interfaces, connections.Addresses = []string{"eth0", "eth1", "eth2"}, nil
		if strings.Contains(inside, "hostdev") {
			connections.Interfaces, connections.Addresses = nil, []netdef.PCIAddress{{Bus: 1, Slot: 16, Function: 2}}
		}
		got := string(parse(t, []byte(network(inside))).LiveXML(connections))
		if !strings.HasPrefix(got, "<network connections='3'>\n") || !strings.Contains(got, want) {
			t.Errorf("%s: %s", inside, got)
		}
	}
}
