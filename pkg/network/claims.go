package network

import (
	"errors"
	"sync"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// claims are the documents of networks that are about to become active, or
// another than they are.
type claims struct {
	mu   sync.Mutex
	docs map[*Network]*netdef.Network
}

// claim sets the subnets of doc aside for n, until it is released: by then n is
// what doc says, or nothing came of it. The error is a conflict with the active
// network that has one of them; those that n has already, as what has says, nil for
// none, are n's.
func (m *Manager) claim(n *Network, doc, has *netdef.Network) (release func(), err error) {
	m.claims.mu.Lock()
	defer m.claims.mu.Unlock()
	if err := netdef.Overlaps(doc, has, m.activeDocuments(n)); err != nil {
		return nil, err
	}
	if m.claims.docs == nil {
		m.claims.docs = make(map[*Network]*netdef.Network)
	}
	m.claims.docs[n] = doc
	return func() {
		m.claims.mu.Lock()
		defer m.claims.mu.Unlock()
		delete(m.claims.docs, n)
	}, nil
}

// activeDocuments lists what every active network is, and will soon be, except
// one. The caller holds m.claims.mu.
func (m *Manager) activeDocuments(except *Network) []*netdef.Network {
	var docs []*netdef.Network
	for _, n := range m.all() {
		if n == except {
			continue
		}
		for _, doc := range []*netdef.Network{n.liveNetwork(), m.claims.docs[n]} {
			if doc != nil {
				docs = append(docs, doc)
			}
		}
	}
	return docs
}

// subnetsTaken finds subnets of doc that active networks other than n have; those that
// has, nil for none, has as well are left out.
func (m *Manager) subnetsTaken(n *Network, doc, has *netdef.Network) error {
	m.claims.mu.Lock()
	defer m.claims.mu.Unlock()
	return netdef.Overlaps(doc, has, m.activeDocuments(n))
}

// conflicts finds what keeps def from being the definition of known, nil for a new
// network: names, UUIDs and bridges of any other network, and subnets of active
// ones that known does not have already. Networks that never run at the same time
// may share a subnet.
func (m *Manager) conflicts(def *netdef.Network, known *Network) error {
	var has *netdef.Network
	if known != nil {
		has = known.definition()
	}
	return errors.Join(netdef.Conflicts(def, m.definitions(known)), m.subnetsTaken(known, def, has))
}
