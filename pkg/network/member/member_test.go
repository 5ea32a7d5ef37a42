package member_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/member"
)

// discard is a disk that keeps nothing.
type discard struct{}

func (discard) Save(cluster.Saving) error { return nil }

// host is a host of the cluster lab, before it runs.
func host(t *testing.T, s cluster.Store, number int) (*member.Clusters, *member.Cluster) {
	t.Helper()
	name, at := fmt.Sprintf("h%d", number), netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", number))
	m := cluster.New(cluster.Config{
		Cluster: "lab", Host: name, Boot: name, Underlay: at, MTU: 1500, Version: "test", Rand: rand.New(rand.NewPCG(1, uint64(number))),
	})
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c := &member.Cluster{
		Name: "lab", Host: name, Underlay: at, Port: 4789, Version: "test", Member: m,
		Runner: &cluster.Runner{Member: m, Store: s, Disk: discard{}, TTL: 15 * time.Second, Logger: log},
	}
	return member.New([]*member.Cluster{c}, log), c
}

// run has a host be one of the cluster until the test ends.
func run(t *testing.T, c *member.Cluster) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// document is a network with what stands inside, and a span.
func document(t *testing.T, inside, span string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(`<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid><forward mode='nat'/><bridge name='virbr7'/>` + inside + span + `</network>`))
	if err == nil {
		err = n.Validate()
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const (
	subnet = `<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.1.255'/><host mac='52:54:00:00:00:09' ip='10.50.1.9'/></dhcp></ip>`
	lab    = `<vnetd:span cluster='lab' vni='7'/>`
)

// TestCheck refuses what can't be on this host.
func TestCheck(t *testing.T) {
	cs, _ := host(t, clustertest.New(), 1)
	for _, tt := range []struct{ inside, span, want string }{
		{subnet, lab, ""},
		{subnet, `<vnetd:span vni='7' underlay='203.0.113.1'><vnetd:peer underlay='203.0.113.2'/></vnetd:span>`, ""},
		{subnet, `<vnetd:span cluster='home' vni='7'/>`, "network/vnetd:span/@cluster: 'home': this host is not in that cluster: want a [cluster.home] in its vnetd.toml"},
		{subnet, `<vnetd:span cluster='lab' hosts='h2 h3' vni='7'/>`, `network/vnetd:span/@hosts: this host is "h1", which is not among them`},
		{`<ip address='203.0.113.254' prefix='24'/>`, lab, "network/vnetd:span/@cluster: 'lab': the hosts reach each other by 203.0.113.1, which is in the network's own subnet 203.0.113.0/24"},
		{strings.Replace(subnet, "<host", "<range start='10.50.9.0' end='10.50.9.9'/><host", 1), lab, "network/ip/dhcp/range[2]: the hosts of a cluster share one range of each family: want one <range>"},
		{subnet6, lab, ""},
		{strings.Replace(subnet6, "<host", "<range start='fd00:50::20' end='fd00:50::29'/><host", 1), lab, "network/ip/dhcp/range[2]: the hosts of a cluster share one range of each family: want one <range>"},
	} {
		err := cs.Check(document(t, tt.inside, tt.span))
		if got := fmt.Sprint(err); tt.want == "" && err != nil || tt.want != "" && got != tt.want {
			t.Errorf("%s: %v, want %s", tt.span, err, tt.want)
		}
	}
	var none *member.Clusters
	if doc := document(t, subnet, lab); none.Check(doc) == nil || none.Resolve(doc) != doc || none.Cards(doc) != nil || none.Share(doc) != nil || none.Admit(t.Context(), doc, nil, "") != nil {
		t.Error("a host without a cluster has one")
	}
}

// pair is two hosts of a cluster, h1 and h2, and what they have of all their clusters.
type pair struct {
	store    *clustertest.Store
	cs1, cs2 *member.Clusters
	h1, h2   *member.Cluster
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{store: clustertest.New()}
	if err := cluster.Init(t.Context(), p.store, "lab", "0b7c"); err != nil {
		t.Fatal(err)
	}
	p.cs1, p.h1 = host(t, p.store, 1)
	p.cs2, p.h2 = host(t, p.store, 2)
	return p
}

// The guest that h1 has, and its lease.
var (
	guest  = []byte{0x52, 0x54, 0, 0, 0, 1}
	leased = netip.MustParseAddr("10.50.1.77")
)

// TestHosts has two hosts know each other's addresses, cards and names, and share a range.
func TestHosts(t *testing.T) {
	p := newPair(t)
	doc := document(t, subnet, lab)
	for _, c := range []*member.Cluster{p.h1, p.h2} {
		if errs := c.SetNetworks(func() []*netdef.Network { return []*netdef.Network{doc} }); errs != nil {
			t.Fatal(errs)
		}
	}
	never := func() bool { return false }
	p.h1.SetPorts("apps", []member.Card{{MAC: guest, UUID: "1", Owner: "vm", Name: "web", Sends: never}})
	p.h1.Tell("apps", true, []dhcpd.Lease{{Addr: leased, MAC: guest, State: dhcpd.StateBound}}) // of before the cluster was there
	run(t, p.h1)
	run(t, p.h2)
	p.know(t, doc)
	p.lend(t, doc)
	if err := p.cs2.Admit(t.Context(), doc, guest, "another"); !strings.Contains(fmt.Sprint(err), "that of another guest, on host h1") {
		t.Errorf("a second guest with the card: %v", err)
	}
	if share := p.cs2.Share(doc); !cmp.Equal(share.Blocks.Mine, 1) || share.Elsewhere != 1 || !share.Connected || len(share.Silent) != 0 {
		t.Errorf("h2 shares %+v", share)
	}
	p.move(t, doc)
	_ = p.h1.SetNetworks(func() []*netdef.Network { return nil })
	clustertest.Eventually(t, "nothing is left of a network that is gone", func() bool {
		l, err := p.store.List(t.Context(), "/vnetd/1/lab/h/h1/", 0)
		return err == nil && len(l.KVs) == 2 // the host, and that it is alive
	})
}

// know waits until h2 knows h1 and its guest.
func (p *pair) know(t *testing.T, doc *netdef.Network) {
	t.Helper()
	clustertest.Eventually(t, "h2 knows h1 and its guest", func() bool {
		at := p.cs2.Resolve(doc).Span
		cards, names := p.cs2.Cards(doc), p.cs2.Elsewhere(doc)
		return at.Underlay.String() == "203.0.113.2" && len(at.Peers) == 1 && at.Peers[0].String() == "203.0.113.1" &&
			len(cards) == 1 && cards[0].String() == "52:54:00:00:00:01" && cards[0].Peer == at.Peers[0] && len(names) == 1 && names[0].Name == "web" && names[0].Addr == leased
	})
	if doc.Span.Underlay.IsValid() || len(doc.Span.Peers) != 0 {
		t.Error("the document has changed")
	}
}

// lend has both hosts have addresses to give, and h2 give none that h1's guest has.
func (p *pair) lend(t *testing.T, doc *netdef.Network) {
	t.Helper()
	l1, l2 := p.cs1.Lender(doc, true), p.cs2.Lender(doc, true)
	clustertest.Eventually(t, "both have addresses to give", func() bool { return len(l1.Blocks()) > 0 && len(l2.Blocks()) > 0 })
	if l1.Blocks()[0].Bits() != 28 || l1.Blocks()[0].Overlaps(l2.Blocks()[0]) {
		t.Errorf("h1 has %v, h2 %v: want blocks of 16 addresses, a sixteenth of the range", l1.Blocks(), l2.Blocks())
	}
	other := dhcpd.HWAddr{0x52, 0x54, 0, 0, 0, 2}
	if l2.May(leased, other, false) || l2.Promise(&dhcpd.Lease{Addr: leased, MAC: other[:]}, true) {
		t.Error("h2 gives what a guest of h1 has, though it is of no block")
	}
	reserved, client := netip.MustParseAddr("10.50.1.9"), dhcpd.HWAddr{0x52, 0x54, 0, 0, 0, 9}
	clustertest.Eventually(t, "h2 may give an address to the client for which it is reserved", func() bool { return l2.May(reserved, client, true) })
	if l1.May(reserved, client, true) || l2.Taken(reserved, client) {
		t.Error("h1 may give it as well")
	}
}

// mover is a guest that moves to a host, as that has it.
type mover struct{ sent, plugged bool }

// told says that the host has a port for it.
func (m *mover) told(c *member.Cluster) (coming, news bool) {
	incoming, news := c.SetPorts("apps", []member.Card{{
		MAC: guest, UUID: "2", Owner: "vm", Name: "web",
		Plugged: func() bool { return m.plugged }, Sends: func() bool { return m.sent },
	}})
	return len(incoming) == 1, news
}

// move has the guest move from h1 to h2: it is there once it has sent something, with its
// address.
func (p *pair) move(t *testing.T, doc *netdef.Network) {
	t.Helper()
	m := new(mover)
	p.come(t, doc, m)
	m.sent = true
	if coming, news := m.told(p.h2); coming || !news {
		t.Error("it has not moved")
	}
	if coming, gone := p.cs2.Stands(doc, guest); coming || gone || len(p.cs2.Cards(doc)) != 0 {
		t.Error("it is elsewhere for the host that it moved to")
	}
	clustertest.Eventually(t, "h1 sends to h2 what is for it, though it has a port still", func() bool {
		coming, gone := p.cs1.Stands(doc, guest)
		return p.sendsTo2(doc) && !coming && gone
	})
	clustertest.Eventually(t, "h2 has its lease", func() bool {
		l, there := p.h2.Lease(cluster.Address{Network: "apps", Addr: leased})
		return there && string(l.MAC) == string(guest) && l.State == dhcpd.StateBound
	})
	p.h1.SetPorts("apps", nil)
	p.cs1.Lender(doc, true).End(leased)
	clustertest.Eventually(t, "h1 sends to h2 what is for it", func() bool { return p.sendsTo2(doc) && len(p.cs2.Cards(doc)) == 0 })
	clustertest.Eventually(t, "the name has moved along", func() bool { return len(p.cs1.Elsewhere(doc)) == 1 && len(p.cs2.Elsewhere(doc)) == 0 })
}

// sendsTo2 reports whether h1 sends to h2 what is for the guest, whatever its ports send.
func (p *pair) sendsTo2(doc *netdef.Network) bool {
	cards := p.cs1.Cards(doc)
	return len(cards) == 1 && cards[0].Peer.String() == "203.0.113.2" && cards[0].Hold == vxlan.Fast
}

// come has the guest be about to move to h2, which has a port for it, and then a device.
func (p *pair) come(t *testing.T, doc *netdef.Network, m *mover) {
	t.Helper()
	held := func(what string, hold vxlan.Hold) {
		t.Helper()
		cards := p.cs2.Cards(doc)
		if coming, gone := p.cs2.Stands(doc, guest); len(cards) != 1 || cards[0].Hold != hold || !coming || gone {
			t.Errorf("%s: h2 sends to %+v, %v, %v", what, cards, coming, gone)
		}
	}
	if err := p.cs2.Admit(t.Context(), doc, guest, "vm"); err != nil {
		t.Error(err)
	}
	held("before it has a port", vxlan.Unsaid)
	if coming, news := m.told(p.h2); !coming || !news || len(p.cs1.Cards(doc)) != 0 {
		t.Errorf("it has moved before it sent anything: %v", p.cs1.Cards(doc))
	}
	held("before libvirt has made its device", vxlan.Unsaid)
	m.plugged = true
	_, news := m.told(p.h2)
	m.plugged = false // the bridge is told otherwise by now
	_, again := m.told(p.h2)
	if held("before it sent anything", vxlan.Loose); !news || again {
		t.Errorf("its device is news: %v, and then again: %v", news, again)
	}
	p.cs2.Noticed(doc, []byte{2, 2, 2, 2, 2, 2})
	p.cs2.Noticed(doc, guest)
	if len(p.h2.Arrivals()) != 1 || <-p.h2.Arrivals() != "apps" {
		t.Error("a frame of it is not noticed")
	}
}

// withTFTP is subnet with a directory of the host's.
func withTFTP(root string) string {
	return strings.Replace(subnet, "<dhcp>", "<tftp root='"+root+"'/><dhcp>", 1)
}

// TestPublish has a definition be the cluster's, but for what is a host's own.
func TestPublish(t *testing.T) {
	p := newPair(t)
	doc := document(t, withTFTP("/srv/boot"), lab+"<vnetd:access><vnetd:user name='u'/></vnetd:access>")
	p.h2.Member.Lost(context.DeadlineExceeded, time.Now())
	if err := p.cs2.Publish(t.Context(), doc, nil, true); !isKind(err, api.Busy) {
		t.Errorf("while the cluster is away: %v", err)
	}
	run(t, p.h1) // which has not joined yet
	if err := p.cs1.Publish(t.Context(), doc, nil, true); err != nil {
		t.Fatal(err)
	}
	run(t, p.h2)
	clustertest.Eventually(t, "both have joined", func() bool { return p.h1.Status().Connected && p.h2.Status().Connected })
	clustertest.Eventually(t, "both have it", func() bool { return p.cs1.UUID(doc) == doc.UUID && p.cs2.UUID(doc) == doc.UUID })
	p.received(t, doc)
	p.republish(t, doc)
	p.stale(t, doc)
	p.number(t, doc)
	clustertest.Eventually(t, "it is gone by one host for all", func() bool {
		err := p.cs1.Withdraw(t.Context(), doc)
		return err == nil && p.cs2.UUID(doc) == "" && p.h2.Member.Claimed(7) == 0
	})
}

// received has h2 take over what all hosts have of a document.
func (p *pair) received(t *testing.T, doc *netdef.Network) {
	t.Helper()
	got, autostart, err := p.h2.Received("apps", nil, netdef.Parse)
	if err != nil || !autostart || got.Access != nil || got.IPs[0].TFTPRoot != "" || !member.Same(got, doc) {
		t.Errorf("h2 got %v, %v:\n%s", autostart, err, got.XML())
	}
	if got, _, err := p.h2.Received("apps", document(t, withTFTP("/mine"), lab), netdef.Parse); err != nil || got.IPs[0].TFTPRoot != "/mine" {
		t.Errorf("h2 loses what is its own: %v", err)
	}
}

// republish has h2 change a document, and other networks not take its name.
func (p *pair) republish(t *testing.T, doc *netdef.Network) {
	t.Helper()
	changed := document(t, strings.Replace(subnet, "1.255", "2.255", 1), lab)
	if err := p.cs2.Publish(member.Received(t.Context()), changed, nil, true); err != nil || p.h1.Member.Status().Backlog != 0 {
		t.Error(err)
	}
	if err := p.cs2.Publish(t.Context(), changed, nil, true); err != nil {
		t.Error(err)
	}
	for n := range 50 {
		again := []*netdef.Network{doc, changed}[n%2]
		if err := errors.Join(p.cs2.Publish(t.Context(), again, nil, true), p.cs2.Mark(t.Context(), again, n%2 == 1)); err != nil {
			t.Fatalf("change %d, right after its own: %v", n, err)
		}
	}
	stranger := doc.Clone()
	stranger.UUID = "7f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11"
	if err := p.cs1.Publish(t.Context(), stranger, nil, true); !isKind(err, api.Exists) {
		t.Errorf("another network of the name: %v", err)
	}
}

// stale has h2 not change what it does not have as the cluster has it: h1's change came between, or
// the network is not on it any more, or is another one.
func (p *pair) stale(t *testing.T, had *netdef.Network) {
	t.Helper()
	changed, next := document(t, strings.Replace(subnet, "1.255", "3.255", 1), lab), document(t, strings.Replace(subnet, "1.255", "4.255", 1), lab)
	publish := func(cs *member.Clusters, doc, had *netdef.Network) {
		t.Helper()
		clustertest.Eventually(t, "the change is taken", func() bool { return cs.Publish(t.Context(), doc, had, true) == nil })
		want := member.Shared(doc)
		clustertest.Eventually(t, "both have it", func() bool {
			n1, _ := p.h1.Member.Definition("apps")
			n2, _ := p.h2.Member.Definition("apps")
			return n1.XML == string(want.XML()) && n2.XML == n1.XML
		})
	}
	publish(p.cs1, changed, nil)
	if err := p.cs2.Publish(t.Context(), next, had, true); !isKind(err, api.Busy) {
		t.Errorf("a change of what h2 has not: %v", err)
	}
	if err := p.cs2.Mark(t.Context(), had, false); err != nil {
		t.Error(err)
	}
	clustertest.Eventually(t, "the mark alone has changed", func() bool {
		n, _ := p.h1.Member.Definition("apps")
		return !n.Autostart && n.XML == string(member.Shared(changed).XML())
	})
	publish(p.cs2, had, had) // it says again what it has
	publish(p.cs1, document(t, subnet, `<vnetd:span cluster='lab' vni='7' hosts='h1'/>`), had)
	if err := p.cs2.Publish(t.Context(), next, nil, true); !isKind(err, api.Conflict) || !p.h2.Left(had) || p.h1.Left(had) {
		t.Errorf("h2, which is left out, changes it: %v", err)
	}
	if err := p.cs2.Withdraw(t.Context(), had); err != nil || p.cs1.UUID(had) == "" {
		t.Errorf("h2, which is left out, undefines it for all: %v", err)
	}
	publish(p.cs1, had, nil)
	stranger := had.Clone()
	stranger.UUID = "7f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11"
	if err := p.cs2.Withdraw(t.Context(), stranger); err != nil || p.cs2.UUID(had) == "" || !p.h2.Left(stranger) {
		t.Errorf("h2 undefines another network of the name: %v", err)
	}
}

// number has another network than that of doc get a VNI of its own.
func (p *pair) number(t *testing.T, doc *netdef.Network) {
	t.Helper()
	other := document(t, subnet, lab)
	other.Name, other.UUID = "other", "8f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11"
	if err := p.cs1.Publish(t.Context(), other, nil, true); !isKind(err, api.Conflict) {
		t.Errorf("another network with the VNI of %s: %v", doc.Name, err)
	}
	other.Span.VNI = 0
	p.cs1.Number(other, func(int) bool { return false })
	if other.Span.VNI < 4096 || p.cs1.Publish(t.Context(), other, nil, true) != nil {
		t.Errorf("another network has VNI %d", other.Span.VNI)
	}
	clustertest.Eventually(t, "its VNI is claimed", func() bool { return p.h2.Member.Claimed(other.Span.VNI) != 0 })
	same := other.Clone()
	same.Span.VNI = 0
	if p.cs2.Number(same, func(int) bool { return true }); same.Span.VNI != other.Span.VNI {
		t.Errorf("the same network has VNI %d and %d", other.Span.VNI, same.Span.VNI)
	}
}

func isKind(err error, kind api.Kind) bool {
	got, _ := api.KindOf(err)
	return got == kind
}

// hung is a store that may leave who lists without an answer.
type hung struct {
	cluster.Store
	hangs atomic.Bool
}

func (h *hung) List(ctx context.Context, prefix string, revision int64) (cluster.Listing, error) {
	if h.hangs.Load() {
		<-ctx.Done()
		return cluster.Listing{}, ctx.Err()
	}
	return h.Store.List(ctx, prefix, revision)
}

// TestUnanswered has a store not answer any more, which nobody has noticed: no guest may move here, and
// others may start.
func TestUnanswered(t *testing.T) {
	s := &hung{Store: clustertest.New()}
	if err := cluster.Init(t.Context(), s, "lab", "0b7c"); err != nil {
		t.Fatal(err)
	}
	_, h1 := host(t, s, 1)
	cs2, h2 := host(t, s, 2)
	doc := document(t, subnet, lab)
	h1.SetPorts("apps", []member.Card{{MAC: guest, UUID: "1", Owner: "vm", Sends: func() bool { return true }}})
	run(t, h1)
	run(t, h2)
	clustertest.Eventually(t, "h2 has joined, and knows the guest", func() bool { return h2.Status().Connected && len(cs2.Cards(doc)) == 1 })
	s.hangs.Store(true)
	err := cs2.Admit(t.Context(), doc, guest, "vm")
	if !errors.Is(err, api.Busy) || !strings.Contains(err.Error(), "cluster lab: a guest can't move here while the cluster is away: the store has not answered within 2s") {
		t.Errorf("a guest moves here while the store does not answer: %v", err)
	}
	if coming, _ := cs2.Stands(doc, guest); coming {
		t.Error("it is expected all the same")
	}
	if err := cs2.Admit(t.Context(), doc, []byte{0x52, 0x54, 0, 0, 0, 2}, "other"); err != nil {
		t.Errorf("a guest that starts here: %v", err)
	}
	s.hangs.Store(false)
	if err := cs2.Admit(t.Context(), doc, guest, "vm"); err != nil {
		t.Errorf("once the store answers again: %v", err)
	}
}

// subnet6 is a subnet with a range as large as one can be.
const subnet6 = `<ip family='ipv6' address='fd00:50::1' prefix='64'><dhcp><range start='fd00:50::1:0' end='fd00:50::1:ffff'/><host id='00:03:00:01:52:54:00:00:00:09' ip='fd00:50::9'/></dhcp></ip>`

// TestHosts6 has two hosts share a range of IPv6, and a guest move with its lease.
func TestHosts6(t *testing.T) {
	p := newPair(t)
	doc := document(t, subnet6, lab)
	for _, c := range []*member.Cluster{p.h1, p.h2} {
		if errs := c.SetNetworks(func() []*netdef.Network { return []*netdef.Network{doc} }); errs != nil {
			t.Fatal(errs)
		}
		run(t, c)
	}
	l1, l2 := p.cs1.Lender(doc, false), p.cs2.Lender(doc, false)
	clustertest.Eventually(t, "both have addresses to give", func() bool { return len(l1.Blocks()) == 1 && len(l2.Blocks()) == 1 })
	if b1, b2 := l1.Blocks()[0], l2.Blocks()[0]; b1.Bits() != 116 || b1.Overlaps(b2) || len(p.cs1.Lender(doc, true).Blocks()) != 0 {
		t.Errorf("h1 has %v, h2 %v, want blocks of 4096 addresses each, a sixteenth of the range", b1, b2)
	}
	p.move6(t, doc, l1, l2)
}

// move6 has a guest get an address of IPv6 on h1, and move to h2 with it.
func (p *pair) move6(t *testing.T, doc *netdef.Network, l1, l2 dhcpd.Lender) {
	t.Helper()
	never := func() bool { return false }
	p.h1.SetPorts("apps", []member.Card{{MAC: guest, UUID: "1", Owner: "vm", Name: "web", Sends: never}})
	a := l1.Blocks()[0].Addr().Next()
	lease := dhcpd.Lease{Addr: a, MAC: guest, DUID: []byte{0, 3, 0, 1, 7}, IAID: 8, State: dhcpd.StateBound, Expiry: time.Now().Add(time.Hour)}
	if l1.Promise(&dhcpd.Lease{Addr: a, DUID: lease.DUID}, false) || !l1.Promise(&lease, false) {
		t.Error("h1 promises an address to a card that nobody knows, or none to one that it knows")
	}
	clustertest.Eventually(t, "h2 knows the guest's name and address", func() bool {
		names := p.cs2.Elsewhere(doc)
		return len(names) == 1 && names[0].Name == "web" && names[0].Addr == a
	})
	p.h2.SetPorts("apps", []member.Card{{MAC: guest, UUID: "2", Owner: "vm", Name: "web", Sends: func() bool { return true }}})
	clustertest.Eventually(t, "h2 has the lease", func() bool {
		got, there := p.h2.Lease(cluster.Address{Network: "apps", Addr: a})
		return there && string(got.DUID) == string(lease.DUID) && got.IAID == 8 && got.ClientID == nil && l2.May(a, dhcpd.HWAddr(guest), false)
	})
	reserved := netip.MustParseAddr("fd00:50::9")
	clustertest.Eventually(t, "h1 may give an address that is reserved by a DUID to who asks", func() bool { return l1.May(reserved, dhcpd.HWAddr(guest), true) })
	// What another family's server has is none of this one's.
	p.h1.Tell("apps", true, nil)
	if !l1.May(a, dhcpd.HWAddr(guest), false) {
		t.Error("that there is no lease of IPv4 ends one of IPv6")
	}
}
