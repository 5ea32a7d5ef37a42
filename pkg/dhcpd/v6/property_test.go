package v6_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// model6 is what DHCPv6 clients believe.
type model6 struct {
	t     *testing.T
	srv   *v6.Server
	link  *dhcpdtest.SimLink
	store *dhcpdtest.Store
	rng   *rand.Rand
	now   time.Time
	held  map[netip.Addr]holding
	e     env6
	given int
}

type holding struct {
	client string
	until  time.Time
}

// TestPoolProperty6: whatever clients send, whenever commits fail and however the
// subnet, the ranges and the reservations change, no address is given to a client
// while another one has it, what is given is stored, and no lease is lost.
func TestPoolProperty6(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			m := &model6{
				t: t, rng: rand.New(rand.NewPCG(seed, 6)), now: time.Now(),
				held: make(map[netip.Addr]holding), store: dhcpdtest.NewStore(),
			}
			m.open()
			for range 2000 {
				m.step()
			}
			if m.given < 100 {
				t.Errorf("only %d addresses were given", m.given)
			}
		})
	}
}

// open starts the server anew from what is stored, or changes its settings.
func (m *model6) open() {
	cfg := testConfig6()
	cfg.Store = m.store
	cfg.Ranges = []dhcpd.Range{{Start: ip6(0x100), End: ip6(0x104)}, {Start: ip6(0x103), End: ip6(0x107)}}
	switch m.rng.IntN(4) {
	case 0: // some addresses are outside the subnet, the others in no range
		cfg.Prefix = netip.PrefixFrom(server6, 120)
		cfg.Ranges = []dhcpd.Range{{Start: ip6(0x40), End: ip6(0x47)}}
	case 1:
		cfg.Ranges = cfg.Ranges[:m.rng.IntN(2)]
	}
	for n := range byte(m.rng.IntN(4)) {
		r := dhcpd.Reservation{DUID: duid(n).ToBytes(), Addr: ip6(0x102 + uint16(n))}
		if m.rng.IntN(2) == 0 {
			r.DUID, r.MAC = nil, mac(n)
		}
		cfg.Reservations = append(cfg.Reservations, r)
	}
	defer m.keeps()
	if m.srv != nil && m.rng.IntN(2) == 0 {
		if err := m.srv.Reconfigure(cfg); err != nil {
			m.t.Fatal(err)
		}
		return
	}
	m.link = dhcpdtest.NewSimLink(4)
	srv, err := v6.OpenOn(cfg, m.link)
	if err != nil {
		m.t.Fatal(err)
	}
	m.srv = srv
}

// keeps fails the test unless the store has the lease of each client, wherever the
// subnet is now. Leases are of a time that the server's own clock has not reached.
func (m *model6) keeps() {
	for a, h := range m.held {
		if !m.now.Before(h.until) {
			continue
		}
		l, ok := m.store.Lease(m.t, a)
		if !ok || l.State != dhcpd.StateBound || identity6(l.DUID[len(l.DUID)-1], byte(l.IAID)) != h.client {
			m.t.Fatalf("the lease of %v by %s is lost, stored is %+v", a, h.client, l)
		}
	}
}

// step does one random thing.
func (m *model6) step() {
	switch m.rng.IntN(40) {
	case 0:
		m.now = m.now.Add(time.Duration(m.rng.IntN(24)) * time.Hour)
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

// message sends one with one or two IAs and looks at the reply.
func (m *model6) message() {
	types := []dhcpv6.MessageType{solicit6, request6, request6, request6, renew6, renew6, rebind6, release6, decline6, confirm6}
	typ := types[m.rng.IntN(len(types))]
	n := byte(m.rng.IntN(8))
	var mods []mod6
	if typ == request6 || typ == renew6 || typ == release6 || typ == decline6 {
		mods = append(mods, ours)
	}
	if typ == solicit6 && m.rng.IntN(2) == 0 {
		mods = append(mods, raw6(dhcpv6.OptionRapidCommit))
	}
	for iaid := range byte(1 + m.rng.IntN(2)) {
		a := ip6(uint16(0xff + m.rng.IntN(11)))
		if m.rng.IntN(4) == 0 {
			a = ip6(uint16(0x3f + m.rng.IntN(10)))
		}
		mods = append(mods, iana6(iaid, a))
		if h, ok := m.held[a]; ok && h.client == identity6(n, iaid) && (typ == release6 || typ == decline6) {
			delete(m.held, a)
		}
	}
	msg := m.e.message(typ, n, mods...)
	for _, s := range m.srv.Handle(m.link, msg.ToBytes(), netip.MustParseAddrPort("[fe80::99]:546"), groupAddr, m.now) {
		m.check(n, s)
	}
}

// identity6 is an interface of a client.
func identity6(n, iaid byte) string { return fmt.Sprint(n, "/", iaid) }

// check holds a reply against what the clients have.
func (m *model6) check(n byte, s dhcpdtest.Sent) {
	r, err := dhcpv6.MessageFromBytes(s.Payload)
	if err != nil {
		m.t.Fatalf("parsing a reply: %v", err)
	}
	if r.Type() != dhcpv6.MessageTypeReply {
		return
	}
	for _, ia := range r.Options.IANA() {
		for _, o := range ia.Options.Addresses() {
			a, _ := netip.AddrFromSlice(o.IPv6Addr)
			m.give(identity6(n, ia.IaId[3]), a, o.ValidLifetime)
		}
	}
}

// give notes that a client has an address, or with no lifetime that it hasn't.
func (m *model6) give(client string, a netip.Addr, lifetime time.Duration) {
	h, taken := m.held[a]
	mine := taken && h.client == client
	switch {
	case lifetime == 0 && mine:
		delete(m.held, a)
		return
	case lifetime == 0:
		return
	case taken && !mine && m.now.Before(h.until):
		m.t.Fatalf("%v was given to %s while %s has it", a, client, h.client)
	}
	for other, h := range m.held {
		if h.client == client {
			delete(m.held, other)
		}
	}
	m.given++
	m.held[a] = holding{client, m.now.Add(lifetime)}
	if l, ok := m.store.Lease(m.t, a); !ok || l.State != dhcpd.StateBound || fmt.Sprint(l.DUID[len(l.DUID)-1], "/", l.IAID) != client {
		m.t.Fatalf("%v was given to %s, stored is %+v", a, client, l)
	}
}
