package cluster

import (
	"time"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// planNames writes which guests of this host have which names: who comes first has it,
// and takes it along when it moves.
func (m *cards) planNames(r *Request, _ time.Time) {
	m.pending.names.keep(func(n FQN) (done, stop bool) {
		key := record.Key{Kind: record.KindName, Network: n.Network, ID: n.Name}.Path(m.cfg.Cluster)
		have, there := m.view.names[n]
		op, change := m.wantName(n, have.v, there)
		if !change {
			return true, false
		}
		op.Key = key
		r.add(op, Compare{Key: key, Mod: m.view.keys[key].mod})
		return false, r.full
	})
}

// wantName is what this host changes about a name, false for nothing.
func (m *cards) wantName(n FQN, have record.Name, there bool) (Op, bool) {
	for _, g := range m.named[n] {
		if !m.sends(g) {
			continue
		}
		if there && have.Host == m.cfg.Host && m.wanted(n, have.MAC) {
			return Op{}, false
		}
		if there && have.Host != m.cfg.Host && have.MAC != g.MAC {
			continue
		}
		return Op{Value: record.Encode(&record.Name{Head: have.Head, Host: m.cfg.Host, MAC: g.MAC})}, true
	}
	return Op{}, there && have.Host == m.cfg.Host
}

// wanted reports whether a card that sends from this host wants a name.
func (m *cards) wanted(n FQN, mac record.MAC) bool {
	for _, g := range m.named[n] {
		if g.MAC == mac && m.sends(g) {
			return true
		}
	}
	return false
}
