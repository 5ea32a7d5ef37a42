package netdef_test

import (
	"bytes"
	"encoding/xml"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"libvirt.org/go/libvirtxml"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// same are the options to compare networks with: what a round trip keeps.
func same() cmp.Options {
	return cmp.Options{
		cmpopts.IgnoreFields(netdef.Network{}, "Ignored"),
		cmpopts.EquateComparable(netdef.IP{}.Address, netip.Prefix{}),
	}
}

// definitions returns the XML files in testdata.
func definitions(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no definitions in testdata: %v", err)
	}
	return files
}

// read returns a file's content.
func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// parse parses src, which must be without faults.
func parse(t testing.TB, src []byte) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse(src)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	if err := n.Validate(); err != nil {
		t.Fatalf("Validate: %v", err)
	}
	return n
}

func TestXML(t *testing.T) {
	for _, file := range definitions(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			n := parse(t, read(t, file))
			printed := n.XML()
			golden.Compare(t, strings.TrimSuffix(file, ".xml")+".inactive", string(printed))
			golden.Compare(t, strings.TrimSuffix(file, ".xml")+".live", string(n.LiveXML(netdef.Connections{Ports: 2})))
			again := parse(t, printed)
			if diff := cmp.Diff(n, again, same()); diff != "" {
				t.Errorf("printed and parsed again (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(n, n.Clone(), same()); diff != "" {
				t.Errorf("Clone (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOracle compares what libvirt's own Go schema reads from our print with
// what it reads from the source. It compares values as text, so the file with
// other spellings is left to TestXML.
func TestOracle(t *testing.T) {
	for _, file := range definitions(t) {
		if file == "testdata/spelling.xml" {
			continue
		}
		t.Run(filepath.Base(file), func(t *testing.T) {
			src := read(t, file)
			want, got := oracle(t, src), oracle(t, parse(t, src).XML())
			if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(xml.Name{})); diff != "" {
				t.Errorf("libvirtxml (-source +print):\n%s", diff)
			}
		})
	}
}

// oracle reads src with libvirtxml and fills in what libvirt prints by itself.
func oracle(t *testing.T, src []byte) *libvirtxml.Network {
	t.Helper()
	n := &libvirtxml.Network{}
	if err := n.Unmarshal(string(src)); err != nil {
		t.Fatalf("libvirtxml: %v", err)
	}
	if f := n.Forward; f != nil && f.Dev == "" && len(f.Interfaces) > 0 {
		f.Dev = f.Interfaces[0].Dev
	}
	if f := n.Forward; f != nil && f.Dev != "" && len(f.Interfaces) == 0 {
		f.Interfaces = []libvirtxml.NetworkForwardInterface{{Dev: f.Dev}}
	}
	return n
}

// TestCloneShares checks that a change of a clone leaves the original alone.
func TestCloneShares(t *testing.T) {
	for _, file := range definitions(t) {
		n := parse(t, read(t, file))
		before := n.XML()
		scribble(n.Clone())
		if after := n.XML(); !bytes.Equal(before, after) {
			t.Errorf("%s: changed through its clone (-before +after):\n%s", file, cmp.Diff(string(before), string(after)))
		}
	}
}

// scribble writes into everything that n points to.
func scribble(n *netdef.Network) {
	if len(n.MAC) > 0 {
		n.MAC[5] ^= 1
	}
	if f := n.Forward; f != nil {
		f.Mode = "x"
		clear(f.Interfaces)
		clear(f.Addresses)
		scribbleNAT(f.NAT)
	}
	for _, ip := range n.IPs {
		if ip.DHCP != nil {
			clear(ip.DHCP.Ranges)
			clear(ip.DHCP.Hosts)
		}
	}
	if d := n.DNS; d != nil {
		clear(d.TXT)
		for _, h := range d.Hosts {
			clear(h.Hostnames)
		}
	}
	if n.Access != nil {
		clear(n.Access.Users)
	}
	clear(n.IPs)
	clear(n.Routes)
	clear(n.PortGroups)
	for _, p := range n.Peers {
		clear(p.Services)
	}
	clear(n.Peers)
	for _, s := range n.Rules.Sets {
		clear(s.Members)
	}
	for _, r := range n.Rules.Rules {
		clear(r.Ports)
		clear(r.Remotes)
	}
	clear(n.Rules.Sets)
	clear(n.Rules.Rules)
}

func scribbleNAT(n *netdef.NAT) {
	if n == nil {
		return
	}
	if n.Port != nil {
		n.Port.Start++
	}
	if n.Address != nil {
		n.Address.Start = n.Address.Start.Next()
	}
}

func TestIgnored(t *testing.T) {
	n := parse(t, []byte(`<network bogus='1' connections='3'>
  <name>n</name><name>second</name>
  <bridge name='virbr0' hello='2'/>
  <domain localOnly='yes'/>
  <ip address='192.0.2.1' prefix='24'>
    <dhcp><range start='192.0.2.2' end='192.0.2.9' color='red'/></dhcp>
    <x:y xmlns:x='urn:x'/>
  </ip>
</network>`))
	want := []string{
		"network/@bogus", "network/name", "network/bridge/@hello", "network/domain",
		"network/ip[1]/dhcp/range[1]/@color", "network/ip[1]/x:y",
	}
	if diff := cmp.Diff(want, n.Ignored); diff != "" {
		t.Errorf("Ignored (-want +got):\n%s", diff)
	}
}

func TestTristate(t *testing.T) {
	for _, def := range []bool{true, false} {
		if netdef.Unset.Or(def) != def || !netdef.Yes.Or(def) || netdef.No.Or(def) {
			t.Errorf("with default %v: unset %v, yes %v, no %v", def, netdef.Unset.Or(def), netdef.Yes.Or(def), netdef.No.Or(def))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, file := range definitions(f) {
		f.Add(read(f, file))
	}
	for _, tt := range faultRows() {
		if len(tt.xml) < 4096 { // the bounds' rows only slow the fuzzer down
			f.Add([]byte(tt.xml))
		}
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		n, err := netdef.Parse(src)
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
		if err := again.Validate(); err != nil {
			t.Errorf("Validate of our own print: %v\n%s", err, n.XML())
		}
	})
}

// TestLastBootp has the last of several <bootp> count, as in libvirt.
func TestLastBootp(t *testing.T) {
	n := parse(t, []byte(subnet("<dhcp><range start='192.0.2.2' end='192.0.2.9'/><bootp file='first'/><bootp file='last'/></dhcp>")))
	if got := n.IPs[0].DHCP.Bootp.File; got != "last" {
		t.Errorf("clients boot %q", got)
	}
}

// TestPortsOfNAT has the ports of NAT be told of an active network where anything is translated.
func TestPortsOfNAT(t *testing.T) {
	const ip4, ip6 = "<ip address='192.0.2.1' prefix='24'/>", "<ip family='ipv6' address='2001:db8::1' prefix='64'/>"
	for inside, want := range map[string]bool{
		"<forward mode='nat'/>" + ip4:                           true,
		"<forward mode='nat'/>" + ip6:                           false,
		"<forward mode='nat'><nat ipv6='yes'/></forward>" + ip6: true,
		"<forward mode='route'/>" + ip4:                         false,
		"<forward mode='nat'/>" + ip4 + ip6:                     true,
	} {
		got := string(parse(t, []byte(network(inside))).LiveXML(netdef.Connections{}))
		if strings.Contains(got, "<port start='1024' end='65535'/>") != want {
			t.Errorf("%s: ports are told: %v, want %v:\n%s", inside, !want, want, got)
		}
	}
}
