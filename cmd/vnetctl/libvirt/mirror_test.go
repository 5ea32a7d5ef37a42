package libvirt

import (
	"encoding/xml"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/api"
)

// TestMirrorDocument holds what libvirtd is told of a network, and that it is the
// same for the same network alone.
func TestMirrorDocument(t *testing.T) {
	const text = `<network connections='3' trustGuestRxFilters='yes'>
  <name>lab</name>
  <uuid>01000000-0000-0000-0000-000000000000</uuid>
  <metadata><a:b xmlns:a="urn:x">kept by vnetd</a:b></metadata>
  <forward mode='nat' dev='eno1'><nat><port start='1024' end='65535'/></nat></forward>
  <bridge name='virbr7' stp='on' delay='0' macTableManager='libvirt'/>
  <bandwidth><inbound average='1000'/></bandwidth>
  <domain name='lab.test'/>
  <port isolated='yes'/>
  <portgroup name='staff' default='yes'>
    <bandwidth><inbound average='10' floor='5' burst='7'/><outbound average='1' peak='2'/></bandwidth>
  </portgroup>
  <portgroup name='guard'><bandwidth><inbound floor='5'/></bandwidth></portgroup>
  <ip address='192.0.2.1' netmask='255.255.255.0'/>
</network>`
	const want = `<network trustGuestRxFilters="yes">
  <name>lab</name>
  <uuid>01000000-0000-0000-0000-000000000000</uuid>
  <metadata>
    <mirror xmlns="urn:vnetd:mirror:1" of="DIGEST"></mirror>
  </metadata>
  <forward mode="bridge"></forward>
  <bridge name="virbr7" macTableManager="libvirt"></bridge>
  <port isolated="yes"></port>
  <portgroup name="staff" default="yes">
    <bandwidth>
      <inbound average="10" burst="7"></inbound>
      <outbound average="1" peak="2"></outbound>
    </bandwidth>
  </portgroup>
  <portgroup name="guard"></portgroup>
</network>
`
	n := api.Network{Name: "lab", UUID: "01000000-0000-0000-0000-000000000000", Bridge: "virbr7", Active: true}
	m, err := newMirror(n, text)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Replace(m.document, m.digest, "DIGEST", 1); got != want {
		t.Errorf("the mirror is\n%s\nwant\n%s", got, want)
	}
	for what, other := range map[string]string{
		"another use of it": strings.Replace(text, "connections='3'", "connections='4'", 1),
		"another range":     strings.Replace(text, "192.0.2.1", "192.0.2.2", 1),
	} {
		if o, err := newMirror(n, other); err != nil || o.digest != m.digest {
			t.Errorf("%s makes another mirror: %v\n%s", what, err, o.document)
		}
	}
	if o, err := newMirror(n, strings.Replace(text, "peak='2'", "peak='3'", 1)); err != nil || o.digest == m.digest {
		t.Errorf("another portgroup makes the same mirror: %v", err)
	}
	read, err := readNetworks(m.document + "\n\n" + text)
	if err != nil || len(read) != 2 || read[0].digest() != m.digest || read[1].digest() != "" {
		t.Errorf("reading them back: %v, %+v", err, read)
	}
}

// TestHookPort holds what vnetd is told of a port: all that is the guest's, and not the plug.
func TestHookPort(t *testing.T) {
	const own = `<uuid>26b2d49e-d533-499b-b933-d8c05135a3a7</uuid><owner><name>vm1</name></owner><group>staff</group>` +
		`<mac address="52:54:00:00:00:11"></mac><bandwidth><inbound average='1'/></bandwidth><vlan><tag id='42'/></vlan><port isolated="yes"></port>`
	var in hookInput
	if err := xml.Unmarshal([]byte("<hookData><networkport>"+own+"<plug type='bridge' bridge='virbr0'/></networkport></hookData>"), &in); err != nil {
		t.Fatal(err)
	}
	got, err := xml.Marshal(in.Port)
	if want := "<networkport>" + own + "</networkport>"; err != nil || string(got) != want {
		t.Errorf("vnetd is told, %v,\n%s\nwant\n%s", err, got, want)
	}
}
