package announce_test

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/bgp"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/announce"
)

func parse(t *testing.T, inside string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(`<network xmlns:vnetd='urn:vnetd:network:1'><name>n</name><forward mode='route'/>
<ip address='10.1.0.1' prefix='24'><dhcp><range start='10.1.0.10' end='10.1.0.20'/><host mac='52:54:00:00:00:01' ip='10.1.0.5'/><host name='web' ip='10.1.0.6'/><host mac='52:54:00:00:00:09' ip='10.1.0.9'/></dhcp></ip>
<ip family='ipv6' address='fd00:1::1' prefix='64'/><ip family='ipv6' address='fe80::1' prefix='64'/>` + inside + `</network>`))
	if err == nil {
		err = n.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func texts(all []netip.Prefix) string {
	var out []string
	for _, p := range all {
		out = append(out, p.String())
	}
	return strings.Join(out, " ")
}

// TestPrefixes lists what is announced of a network: subnets but for those of the link alone, or
// guests with the addresses that they have, or have reserved, in the network and once.
func TestPrefixes(t *testing.T) {
	guests := []announce.Guest{
		{MAC: []byte{0x52, 0x54, 0, 0, 0, 1}, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.11"), netip.MustParseAddr("10.1.0.5"), netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("10.1.0.1")}},
		{MAC: []byte{0x52, 0x54, 0, 0, 0, 2}, Name: "web", Addresses: []netip.Addr{netip.MustParseAddr("fd00:1::7"), netip.MustParseAddr("fe80::7")}},
		{Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.12")}},
	}
	const subnets, each = "10.1.0.0/24 fd00:1::/64", "10.1.0.5/32 10.1.0.6/32 10.1.0.11/32 10.1.0.12/32 fd00:1::7/128"
	const span = "<vnetd:span vni='7' underlay='203.0.113.1'><vnetd:peer underlay='203.0.113.2'/></vnetd:span>"
	for inside, want := range map[string]string{
		"":                               "",
		"<vnetd:announce/>":              subnets,
		"<vnetd:announce guests='yes'/>": each,
		"<vnetd:announce subnets='yes' guests='yes'/>": "10.1.0.0/24 " + strings.Replace(each, "fd00:1::7", "fd00:1::/64 fd00:1::7", 1),
		span + "<vnetd:announce/>":                     each,
	} {
		if got := texts(announce.Prefixes(parse(t, inside), guests)); got != want {
			t.Errorf("%s: %s, want %s", inside, got, want)
		}
	}
}

// told is a speaker that keeps what it is told.
type told struct {
	cfg     bgp.Config
	last    []netip.Prefix
	settled int
}

func (s *told) Config() bgp.Config { return s.cfg }
func (s *told) Announce(all []netip.Prefix) {
	s.last = slices.SortedFunc(slices.Values(all), netip.Prefix.Compare)
}
func (s *told) Settle(context.Context) { s.settled++ }
func (s *told) State() bgp.State {
	return bgp.State{Neighbours: []bgp.Peer{{Address: s.cfg.Neighbours[0].Address, Up: true}}}
}

// TestKeeper announces what networks have be announced, of the families that somebody is told of,
// and waits for those who are told when a network ends.
func TestKeeper(t *testing.T) {
	var nobody *announce.Keeper
	nobody.Follow(nil)
	nobody.Withdraw(t.Context(), "a")
	if nobody.Of("a") != nil || nobody.Status() != nil {
		t.Error("nobody is told something")
	}
	s := &told{cfg: bgp.Config{AS: 64513, Neighbours: []bgp.Neighbour{{Address: netip.MustParseAddr("192.0.2.1"), AS: 64512}}}}
	k := announce.NewKeeper(s)
	look := func() map[string][]netip.Prefix {
		return map[string][]netip.Prefix{"a": {netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00:1::/64")}, "b": {netip.MustParsePrefix("10.0.0.0/24")}, "c": {}}
	}
	k.Follow(look)
	if got := texts(s.last); got != "10.0.0.0/24 10.1.0.0/24" {
		t.Errorf("told %s", got)
	}
	if got := k.Status(); got.AS != 64513 || texts(got.Prefixes) != "10.0.0.0/24 10.1.0.0/24" || len(got.Neighbours) != 1 || !got.Neighbours[0].Up || got.Neighbours[0].AS != 64512 {
		t.Errorf("%+v", got)
	}
	if a, c := k.Of("a"), k.Of("c"); texts(a) != "10.1.0.0/24" || c == nil || k.Of("d") != nil {
		t.Errorf("a announces %v, c %v", a, c)
	}
	k.Withdraw(t.Context(), "c")
	if k.Withdraw(t.Context(), "a"); texts(s.last) != "10.0.0.0/24" || s.settled != 1 {
		t.Errorf("told %v, waited %d times", s.last, s.settled)
	}
}
