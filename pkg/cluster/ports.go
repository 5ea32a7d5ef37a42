package cluster

import (
	"bytes"
	"maps"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// cards are the cards of guests: those of this host, and where all of them send from.
type cards struct {
	*state
	ports map[Guest]*localPort
	named map[FQN][]Guest // who of this host wants a name, by when it came
	asked map[Address]int // how many ports of this host ask for an address
	moves map[Guest]*moves
	moved uint64 // how often any of them did, as this host saw it

	moving chan struct{} // one of them has moved
}

// localPort is a Port with what became of it.
type localPort struct {
	Port
	lost  bool   // the guest sends from another host by now
	clash string // another guest's host, if it is lost to one with the same MAC address

	moving bool   // it was made for a guest that moved here
	seq    uint64 // how often the card had moved, as was known when the port was made
}

// A card that moves more often than this within this time is one of two cards with the
// same address: it stays where it is (RFC 7432 section 15.1).
const (
	mostMoves   = 5
	movesWithin = 60 * time.Second
)

// moves are the last moves of a card, as this host saw them.
type moves struct {
	at     []time.Time
	frozen bool
	host   string // where it stays while frozen
}

// noteMove takes in that the records of a card changed; winner is where it was before.
func (m *cards) noteMove(g Guest, winner string, now time.Time) {
	host, _ := m.view.winner(g)
	if winner == "" || host == "" || host == winner {
		return
	}
	m.moved++
	ring(m.moving)
	h := m.moves[g]
	if h == nil {
		h = new(moves)
		m.moves[g] = h
	}
	if h.expire(now); len(h.at) == 0 {
		h.frozen = false
	}
	if h.at = append(h.at, now); len(h.at) > mostMoves && !h.frozen {
		h.frozen, h.host = true, winner
	}
}

// expire forgets moves that are long past.
func (h *moves) expire(now time.Time) {
	h.at = slices.DeleteFunc(h.at, func(t time.Time) bool { return now.Sub(t) >= movesWithin })
	if len(h.at) > mostMoves {
		h.at = slices.Delete(h.at, 0, len(h.at)-mostMoves)
	}
}

// thaw ends what is frozen and quiet by now.
func (m *cards) thaw(now time.Time) {
	for _, g := range slices.SortedFunc(maps.Keys(m.moves), Guest.compare) {
		h := m.moves[g]
		h.expire(now)
		if len(h.at) > 0 {
			continue
		}
		delete(m.moves, g)
		if h.frozen {
			m.changes.guest(g)
			m.pending.ports.push(g)
		}
	}
}

// frozen returns where a card stays that moves too often, "" for one that does not.
func (m *cards) frozen(g Guest) string {
	if h := m.moves[g]; h != nil && h.frozen {
		return h.host
	}
	return ""
}

// planPorts writes which cards are on this host.
func (m *cards) planPorts(r *Request, now time.Time) {
	m.thaw(now)
	m.pending.ports.keep(func(g Guest) (done, stop bool) {
		path := m.path(record.KindPort, g.Network, g.MAC.String())
		mine, there := m.view.ports[g].of(m.cfg.Host)
		p := m.ports[g]
		if p == nil {
			if there {
				r.add(Op{Key: path})
			}
			return !there, r.full
		}
		want, ok := m.wantPort(g, p, mine)
		if !ok {
			return m.frozen(g) == "", false
		}
		text := record.Encode(&want)
		if there && bytes.Equal(text, record.Encode(&mine.v)) {
			return true, false
		}
		r.add(Op{Key: path, Value: text}, m.unmoved(g, want, mine.v)...)
		return false, r.full
	})
}

// unmoved are the comparisons that hold if no host has said anything of a card since,
// for one that moves here: so no two hosts say that it moved there as often.
func (m *cards) unmoved(g Guest, want, mine record.Port) (compares []Compare) {
	if want.Seq == mine.Seq {
		return nil
	}
	for _, host := range slices.Sorted(maps.Keys(m.view.members)) {
		if host != m.cfg.Host {
			key := record.Key{Kind: record.KindPort, Host: host, Network: g.Network, ID: g.MAC.String()}.Path(m.cfg.Cluster)
			compares = append(compares, Compare{Key: key, Mod: m.view.keys[key].mod})
		}
	}
	return compares
}

// wantPort is what this host has to say of a card; false for nothing.
func (m *cards) wantPort(g Guest, p *localPort, mine kept[record.Port]) (record.Port, bool) {
	want := record.Port{UUID: p.UUID, Owner: p.Owner, Name: p.Name, Addresses: p.Addresses, State: record.Incoming}
	same := mine.v.UUID == p.UUID
	if same {
		want.Head, want.Seq = mine.v.Head, mine.v.Seq
		p.lost = p.lost || mine.v.State == record.Moved
	}
	if host, _ := m.view.winner(g); p.lost && host == "" {
		p.lost, p.clash = false, "" // where it went it is no more
		m.changes.guest(g)
	}
	switch host, _ := m.view.winner(g); {
	case p.lost || !p.Here:
	case same && mine.v.State == record.Here:
		if host != m.cfg.Host {
			m.lose(g, p)
		}
	case m.clashes(g, p) || m.left(g, p):
		m.lose(g, p)
	case m.frozen(g) != "":
		return want, false
	default:
		want.Seq, want.State = after(m.view.seq(g)), record.Here
		return want, true
	}
	switch {
	case p.lost:
		want.Seq, want.State = mine.v.Seq, record.Moved
		return want, mine.mod != 0 // what nobody was told of need not be taken back
	case p.Here:
		want.State = record.Here
	}
	return want, true
}

// displaced reports whether a card that this host said to be here has moved since.
func (m *cards) displaced(g Guest, p *localPort) bool {
	mine, _ := m.view.ports[g].of(m.cfg.Host)
	host, _ := m.view.winner(g)
	return mine.v.UUID == p.UUID && mine.v.State != record.Incoming && host != "" && host != m.cfg.Host
}

// lose makes a card of this host one that sends from elsewhere.
func (m *cards) lose(g Guest, p *localPort) {
	host, other := m.view.winner(g)
	p.lost = true
	if other.v.Owner != p.Owner || p.Owner == "" {
		p.clash = host
	}
	m.changes.guest(g)
	if p.Name != "" {
		m.pending.names.push(FQN{g.Network, p.Name})
	}
}

// clashes reports whether another guest has a card's address on a host that is alive.
func (m *cards) clashes(g Guest, p *localPort) bool {
	host, other := m.view.winner(g)
	_, alive := m.view.alive[host]
	return host != "" && host != m.cfg.Host && alive && (other.v.Owner != p.Owner || p.Owner == "")
}

// left reports whether a guest that was started here has moved away before the others
// could be told of it.
func (m *cards) left(g Guest, p *localPort) bool {
	mine, _ := m.view.ports[g].of(m.cfg.Host)
	moving := p.moving || mine.v.UUID == p.UUID && mine.v.State == record.Incoming
	host, other := m.view.winner(g)
	_, alive := m.view.alive[host]
	return alive && host != m.cfg.Host && !moving && other.v.Seq > p.seq
}

// sends reports whether a card sends from this host, and all others know.
func (m *cards) sends(g Guest) bool {
	p := m.ports[g]
	if p == nil || p.lost || !p.Here {
		return false
	}
	host, port := m.view.winner(g)
	return host == m.cfg.Host && port.v.UUID == p.UUID
}

// touchGuest has all looked at that hangs on a card.
func (m *cards) touchGuest(g Guest) {
	m.pending.ports.push(g)
	for _, a := range sortedAddresses(m.view.of[g]) {
		m.pending.leases.push(a)
	}
	if p := m.ports[g]; p != nil && p.Name != "" {
		m.pending.names.push(FQN{g.Network, p.Name})
	}
}

// unname forgets that a card wants a name.
func (m *cards) unname(g Guest, name string) {
	n := FQN{g.Network, name}
	for i, other := range m.named[n] {
		if other == g {
			m.named[n] = append(m.named[n][:i:i], m.named[n][i+1:]...)
			break
		}
	}
	if len(m.named[n]) == 0 {
		delete(m.named, n)
	}
	if name != "" {
		m.pending.names.push(n)
	}
}
