package v4_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// model is what clients believe: it holds what they were acknowledged.
type model struct {
	t     *testing.T
	srv   *v4.Server
	link  *dhcpdtest.SimLink
	store *dhcpdtest.Store
	rng   *rand.Rand
	now   time.Time
	held  map[netip.Addr]holding
	e     env
	// reserved are the MAC addresses that have a reservation.
	reserved []string
	acks     int
}

type holding struct {
	client string
	until  time.Time
}

// TestPoolProperty: whatever clients send, whenever commits fail and however the
// subnet, the ranges and the reservations change, no address is acknowledged to a
// client while another one has it, and no lease is lost.
func TestPoolProperty(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model{
				t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Now(),
				held: make(map[netip.Addr]holding), store: dhcpdtest.NewStore(),
			}
			m.open()
			for range 5000 {
				m.step()
			}
			if m.acks < 100 {
				t.Errorf("only %d messages were acknowledged", m.acks)
			}
		})
	}
}

// open starts the server anew from what is stored.
func (m *model) open() {
	cfg := testConfig()
	cfg.Store = m.store
	cfg.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(104)}, {Start: ip(103), End: ip(107)}}
	switch m.rng.IntN(4) {
	case 0: // some addresses are outside the subnet, the others in no range
		cfg.Prefix = netip.MustParsePrefix("192.0.2.0/26")
		cfg.Ranges = []dhcpd.Range{{Start: ip(40), End: ip(47)}}
	case 1:
		cfg.Ranges = cfg.Ranges[:m.rng.IntN(2)]
	}
	m.reserved = nil
	for n := range byte(m.rng.IntN(4)) {
		if cfg.Prefix.Contains(ip(102 + n)) {
			m.reserved = append(m.reserved, mac(n).String())
		}
		cfg.Reservations = append(cfg.Reservations, dhcpd.Reservation{MAC: mac(n), Addr: ip(102 + n)})
	}
	defer m.keeps()
	if m.srv != nil && m.rng.IntN(2) == 0 {
		if err := m.srv.Reconfigure(cfg); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	m.link = dhcpdtest.NewSimLink(4)
	srv, err := v4.OpenOn(cfg, m.link)
	if err != nil {
		m.t.Fatal(err)
	}
	m.srv = srv
}

// keeps fails the test unless the store has the lease of each client, wherever the
// subnet is now. Leases are of a time that the server's own clock has not reached.
func (m *model) keeps() {
	for a, h := range m.held {
		if !m.now.Before(h.until) {
			continue
		}
		if l, ok := m.store.Lease(m.t, a); !ok || l.State != dhcpd.StateBound || l.MAC.String() != h.client[:17] {
			m.t.Fatalf("the lease of %v by %q is lost, stored is %+v", a, h.client, l)
		}
	}
}

// step does one random thing.
func (m *model) step() {
	switch m.rng.IntN(40) {
	case 0:
		m.now = m.now.Add(time.Duration(m.rng.IntN(3600)) * time.Second)
	case 1:
		m.store.FailWith(nil)
		m.open()
	case 2:
		m.store.FailWith(errors.New("broken"))
	case 3, 4, 5:
		m.store.FailWith(nil)
	default:
		m.message()
	}
	m.now = m.now.Add(time.Duration(m.rng.IntN(3000)) * time.Millisecond)
}

// message sends one and looks at the replies.
func (m *model) message() {
	hw := mac(byte(m.rng.IntN(12)))
	types := []dhcpv4.MessageType{1, 1, 3, 3, 3, 3, 4, 7, 8, 0}
	typ := types[m.rng.IntN(len(types))]
	a := ip(byte(99 + m.rng.IntN(11)))
	if m.rng.IntN(4) == 0 {
		a = ip(byte(39 + m.rng.IntN(10)))
	}
	var mods []mod
	if m.rng.IntN(2) == 0 {
		mods = append(mods, requested(a))
	} else {
		mods = append(mods, ciaddr(a))
	}
	if m.rng.IntN(2) == 0 {
		mods = append(mods, serverID(serverAddr))
	}
	// Some have two clients on one card, the others one that tells more or less of
	// itself.
	client := hw.String()
	id := []string{"", "\x00one", "\x00two"}[m.rng.IntN(2)+int(hw[5]%2)]
	if id != "" {
		mods = append(mods, clientID(id))
	}
	if hw[5]%2 != 0 {
		client += id
	}
	msg := m.e.message(typ, hw, mods...)
	m.leave(typ, client, a)
	for _, s := range m.srv.Handle(m.link, msg.ToBytes(), netip.AddrPortFrom(ip(9), 68), serverAddr, m.now) {
		m.check(typ, client, hw, s)
	}
}

// leave notes that a client stops using an address before it says so.
func (m *model) leave(typ dhcpv4.MessageType, client string, a netip.Addr) {
	h, taken := m.held[a]
	if taken && (typ == dhcpv4.MessageTypeRelease || typ == dhcpv4.MessageTypeDecline) && m.same(h.client, client) {
		delete(m.held, a)
	}
}

// check holds a reply against what the clients have.
func (m *model) check(typ dhcpv4.MessageType, client string, hw net.HardwareAddr, s dhcpdtest.Sent) {
	r, err := dhcpv4.FromBytes(s.Payload)
	if err != nil {
		m.t.Fatalf("parsing a reply: %v", err)
	}
	acked := r.MessageType() == dhcpv4.MessageTypeAck || r.MessageType() == dhcpv4.MessageTypeNone
	if typ == dhcpv4.MessageTypeInform || !acked {
		return
	}
	m.acks++
	a, _ := netip.AddrFromSlice(r.YourIPAddr.To4())
	m.mayHave(a, client)
	m.isStored(a, client, hw)
	// A client that gets an address gives up the one that it had.
	maps.DeleteFunc(m.held, func(_ netip.Addr, h holding) bool { return m.same(h.client, client) })
	m.held[a] = holding{client, m.now.Add(r.IPAddressLeaseTime(100000 * time.Hour))}
}

// mayHave fails the test when another client has a.
func (m *model) mayHave(a netip.Addr, client string) {
	h, taken := m.held[a]
	if taken && m.now.Before(h.until) && !m.same(h.client, client) {
		m.t.Fatalf("%v was acknowledged to %q while %q has it", a, client, h.client)
	}
}

// same reports whether two clients are one: so are all behind a MAC address that
// has a reservation.
func (m *model) same(a, b string) bool {
	return a == b || (a[:17] == b[:17] && slices.Contains(m.reserved, a[:17]))
}

// isStored fails the test unless the store has the lease of a.
func (m *model) isStored(a netip.Addr, client string, hw net.HardwareAddr) {
	l, ok := m.store.Lease(m.t, a)
	if !ok || l.MAC.String() != hw.String() || l.State != dhcpd.StateBound {
		m.t.Fatalf("%v was acknowledged to %q, stored is %+v", a, client, l)
	}
}

// FuzzPacket4: no bytes make the handler panic, answer more than twice or answer
// with what does not parse.
func FuzzPacket4(f *testing.F) {
	var e env
	for _, m := range []*dhcpv4.DHCPv4{
		e.message(dhcpv4.MessageTypeDiscover, mac(2), hostname("guest"), clientID("\x01id")),
		e.message(dhcpv4.MessageTypeRequest, mac(2), requested(ip(100)), serverID(serverAddr), opt(dhcpv4.OptionFQDN, 4, 0, 0, 1, 'a', 0)),
		e.message(dhcpv4.MessageTypeRequest, mac(2), ciaddr(ip(100)), opt(dhcpv4.OptionMaximumDHCPMessageSize, 2, 64)),
		e.message(dhcpv4.MessageTypeDecline, mac(2), requested(ip(100))),
		e.message(dhcpv4.MessageTypeRelease, mac(2), ciaddr(ip(100))),
		e.message(dhcpv4.MessageTypeInform, mac(2), ciaddr(ip(50)), opt(dhcpv4.OptionParameterRequestList, 1, 3, 6)),
		e.message(dhcpv4.MessageTypeNone, mac(0xff)),
		e.message(dhcpv4.MessageTypeDiscover, mac(2), opt(dhcpv4.OptionRelayAgentInformation, 1, 1, 1), func(m *dhcpv4.DHCPv4) { m.GatewayIPAddr = ip(9).AsSlice() }),
	} {
		f.Add(m.ToBytes(), false)
		f.Add(m.ToBytes(), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, unicast bool) {
		link := dhcpdtest.NewSimLink(4)
		srv, err := v4.OpenOn(testConfig(), link)
		if err != nil {
			t.Fatal(err)
		}
		dst := broadcast
		if unicast {
			dst = serverAddr
		}
		replies := srv.Handle(link, data, netip.AddrPortFrom(ip(9), 68), dst, time.Now())
		if len(replies) > 1 || srv.Stats().Panics != 0 {
			t.Errorf("%d replies, counters %+v", len(replies), srv.Stats())
		}
		for _, s := range replies {
			if _, err := dhcpv4.FromBytes(s.Payload); err != nil || len(s.Payload) > 1472 {
				t.Errorf("a reply of %d bytes: %v", len(s.Payload), err)
			}
		}
	})
}

// BenchmarkFourWay is DISCOVER, OFFER, REQUEST and ACK of a new client each, with
// a store in memory.
func BenchmarkFourWay(b *testing.B) {
	cfg := testConfig()
	cfg.Prefix = netip.MustParsePrefix("10.0.0.0/8")
	cfg.Server = netip.MustParseAddr("10.0.0.1")
	cfg.Ranges = []dhcpd.Range{{Start: netip.MustParseAddr("10.1.0.0"), End: netip.MustParseAddr("10.250.0.0")}}
	link := dhcpdtest.NewSimLink(16)
	e := start(b, cfg, simWire{link}, func(c v4.Config) (*v4.Server, error) { return v4.OpenOn(c, link) })
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		hw := net.HardwareAddr{2, 0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
		a := e.discover(hw)
		r := e.ask(dhcpv4.MessageTypeRequest, hw, requested(a), serverID(cfg.Server))
		if r.yiaddr() != a {
			b.Fatalf("got %v, want an ACK of %v", r, a)
		}
	}
}
