package netdef_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// statusFile is what libvirtd 9.0.0 wrote of an active network.
const statusFile = "../../test/testdata/libvirt/run/libvirt/network/default.xml"

func TestParseStatus(t *testing.T) {
	text := string(read(t, statusFile))
	n, err := netdef.ParseStatus([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	begin, end := strings.Index(text, "<network>"), strings.Index(text, "</networkstatus>")
	want, err := netdef.Parse([]byte(text[begin:end]))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, n, same()); diff != "" {
		t.Errorf("the network in the status (-alone +inside):\n%s", diff)
	}
	if n.Name != "default" || n.Bridge.Name != "virbr0" || n.Validate() != nil {
		t.Errorf("it is %+v", n)
	}
	for _, tt := range []struct{ text, says string }{
		{"", "no element found"},
		{"<networkstatus>", "the document ends inside <networkstatus>"},
		{"<networkstatus/>", "the document has no <network>"},
		{"<network/>", "the document is a <network>, want <networkstatus>"},
		{"<networkstatus><network ipv6='maybe'/></networkstatus>", "network/@ipv6: 'maybe'"},
	} {
		if _, err := netdef.ParseStatus([]byte(tt.text)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.text, err, tt.says)
		}
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add(read(f, statusFile))
	f.Add([]byte("<networkstatus><floor sum='0'/><network><name>n</name></network></networkstatus>"))
	f.Fuzz(func(t *testing.T, src []byte) {
		n, err := netdef.ParseStatus(src)
		if err != nil || n.Validate() != nil {
			return
		}
		again, err := netdef.Parse(n.XML())
		if err != nil {
			t.Fatalf("Parse of our own print: %v\n%s", err, n.XML())
		}
		if diff := cmp.Diff(n, again, same()); diff != "" {
			t.Errorf("printed and parsed again (-want +got):\n%s", diff)
		}
	})
}

// TestParseStatusOfFunctions leaves out what libvirt had found of a card.
func TestParseStatusOfFunctions(t *testing.T) {
	for _, found := range []string{"<interface dev='ens1v0' connections='1'/><interface dev='ens1v1'/>", "<address type='pci' domain='0' bus='1' slot='0x10' function='0'/>"} {
		mode := "passthrough"
		if strings.Contains(found, "pci") {
			mode = "hostdev"
		}
		n, err := netdef.ParseStatus([]byte("<networkstatus><network><name>n</name><forward mode='" + mode + "'><pf dev='ens1'/>" + found + "</forward></network></networkstatus>"))
		if err != nil {
			t.Fatal(err)
		}
		if f := n.Forward; n.Validate() != nil || f.PF != "ens1" || f.Dev != "" || len(f.Interfaces)+len(f.Addresses) != 0 {
			t.Errorf("%s: %+v, %v", found, n.Forward, n.Validate())
		}
	}
}
