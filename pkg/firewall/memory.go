package firewall

import (
	"errors"
	"sync"
)

// memory is what was last seen in the kernel. Under nf_tables it is true as long
// as the generation is the same, so that a change needs no listing when nobody
// else made one.
type memory struct {
	mu     sync.Mutex // for recall: the families are served side by side
	socket *nftSocket
	id     uint32             // the generation that listed shows; 0: none
	listed map[Family]listing // families of variant nf_tables only
	whole  bool               // nothing of ours was missing
	ours   map[uint32]bool    // generations that we made
	// foreign is the generation up to which somebody else may have changed rules:
	// all since are ours. 0: the kernel does not count.
	foreign uint32
	// handles are those of all rules, by their text, of chains of which they are
	// known. They are true as long as listed is.
	handles map[chainKey]map[string][]uint64
	forms   map[string]*form // by shape
}

// generation asks for the present one; 0 if the kernel does not tell, in which
// case nothing is remembered.
func (m *memory) generation() uint32 {
	if m.socket == nil {
		socket, err := openNFT(0)
		if err != nil {
			return 0
		}
		m.socket = socket
	}
	id, err := m.socket.current()
	if err != nil {
		_ = m.close()
		return 0
	}
	return id
}

// refresh forgets what is no longer true, and returns the present generation.
func (m *memory) refresh() uint32 {
	now := m.generation()
	if now == 0 || now != m.id {
		m.forget()
		m.foreign = now
	}
	m.id = now
	if m.handles == nil {
		m.handles = map[chainKey]map[string][]uint64{}
	}
	if m.forms == nil {
		m.forms = map[string]*form{}
	}
	return now
}

// forget drops the listings.
func (m *memory) forget() {
	m.id, m.whole, m.listed, m.handles = 0, false, nil, nil
}

// recall hands out a family's listing, nil if it is not known. The listing is
// the caller's, who may keep another one instead.
func (m *memory) recall(f Family) listing {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.listed[f]
	delete(m.listed, f)
	return l
}

// keep remembers what a family holds now.
func (m *memory) keep(f Family, l listing) {
	if m.listed == nil {
		m.listed = map[Family]listing{}
	}
	m.listed[f] = l
}

// restored is told that iptables-restore has changed chains.
func (m *memory) restored(changed map[chainKey][]string) {
	for key := range changed {
		delete(m.handles, key)
	}
}

// settle is told how many commits we made since refresh returned before. If the
// kernel counted as many, nobody else made one, and what was kept holds.
func (m *memory) settle(before uint32, commits int) {
	now := m.generation()
	if before == 0 || now != before+uint32(commits) {
		m.forget()
		return
	}
	if m.ours == nil || len(m.ours) > 1000 {
		m.ours = map[uint32]bool{}
	}
	for id := before; id != now; {
		id++
		m.ours[id] = true
	}
	m.id = now
}

// close closes the socket and forgets.
func (m *memory) close() error {
	m.forget()
	if m.socket == nil {
		return nil
	}
	err := m.socket.close()
	m.socket = nil
	if err != nil {
		return errors.Join(errors.New("closing the netlink socket"), err)
	}
	return nil
}
