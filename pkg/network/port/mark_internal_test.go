package port

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/store"
)

// TestMark has a port's device say what the port is, as far as there is room.
func TestMark(t *testing.T) {
	p := store.Port{
		UUID: "77777777-0000-4000-8000-000000000001", Network: "77777777-0000-4000-8000-000000000002", Name: "web",
		MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}, IfName: "vnet0", Index: 7, Queues: 4, VnetHdr: true, Isolated: true,
		Lifetime: api.LifetimePersistent, Owner: 1000, Created: time.Unix(1700000000, 0), ID: "a b=c",
		Aliases: []string{"www", "db"},
	}
	read := func(p store.Port) store.Port {
		text := Mark(p)
		got, ok := Marked(bridge.Link{Name: p.IfName, Index: p.Index, Kind: "tun", Alias: text})
		if !ok || len(text) > MarkSize {
			t.Errorf("mark of %d bytes is not understood: %q", len(text), text)
		}
		return got
	}
	same := cmp.Comparer(func(a, b netip.Addr) bool { return a == b })
	if diff := cmp.Diff(p, read(p), same); diff != "" {
		t.Errorf("by its mark (-want +got):\n%s", diff)
	}
	long := p
	long.ID = strings.Repeat("ä", 127)
	if diff := cmp.Diff("", read(long).ID); diff != "" {
		t.Errorf("an id for which there is no room (-want +got):\n%s", diff)
	}
	for _, other := range []bridge.Link{
		{Kind: "tun", Alias: "my alias"},
		{Kind: "veth", Alias: Mark(p)},
		{Kind: "tun", Alias: mark},
		{Kind: "tun", Alias: mark + p.UUID},
		{Kind: "tun", Alias: mark + p.UUID + " mac=nonsense"},
	} {
		if got, ok := Marked(other); ok {
			t.Errorf("%+v is taken for port %+v", other, got)
		}
	}
}

// FuzzMarked reads what anybody with the right to may have written.
func FuzzMarked(f *testing.F) {
	f.Add("vnetd port 77777777-0000-4000-8000-000000000001 network=x mac=52:54:00:01:02:03 owner=1 address=192.0.2.1")
	f.Fuzz(func(t *testing.T, alias string) {
		p, ok := Marked(bridge.Link{Kind: "tun", Alias: alias})
		if !ok {
			return
		}
		again, ok := Marked(bridge.Link{Kind: "tun", Alias: Mark(p)})
		if !ok || again.UUID != p.UUID || again.Owner != p.Owner {
			t.Errorf("%q is %+v, and then %+v", alias, p, again)
		}
	})
}
