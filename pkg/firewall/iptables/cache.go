package iptables

import (
	"sync"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// cache is what was last seen in the kernel. Under nf_tables it is true as long
// as the generation is the same, so that a change needs no listing when nobody
// else made one.
type cache struct {
	mu     sync.Mutex // for recall: the families are served side by side; and for guards
	socket *nfnetlink.Socket
	id     uint32                      // the generation that listed shows; 0: none
	listed map[firewall.Family]listing // families of variant nf_tables only
	whole  bool                        // nothing of ours was missing
	ours   map[uint32]bool             // generations that we made
	guards map[uint32]bool             // generations that changed guards of ports alone; guarded by mu
	// foreign is the generation up to which somebody else may have changed rules:
	// all since are ours. 0: the kernel does not count.
	foreign uint32
	// handles are those of all rules, by their text, of chains of which they are
	// known. They are true as long as listed is.
	handles   map[chainKey]map[string][]uint64
	templates map[string]*template // by rule without its operands
}

// generation asks for the present one; 0 if the kernel does not tell, in which
// case nothing is remembered.
func (k *cache) generation() uint32 {
	if k.socket == nil {
		socket, err := nfnetlink.Open()
		if err != nil {
			return 0
		}
		k.socket = socket
	}
	id, err := k.socket.Current()
	if err != nil {
		_ = k.close()
		return 0
	}
	return id
}

// refresh forgets what is no longer true, and returns the present generation.
func (k *cache) refresh() uint32 {
	now := k.generation()
	k.passGuards(now)
	if now == 0 || now != k.id {
		k.forget()
		k.foreign = now
	}
	k.id = now
	if k.handles == nil {
		k.handles = map[chainKey]map[string][]uint64{}
	}
	if k.templates == nil {
		k.templates = map[string]*template{}
	}
	return now
}

// heardGuards is told of a generation that changed guards of ports alone. Who asks
// before that reads the rules once more.
func (k *cache) heardGuards(id uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.guards == nil || len(k.guards) > 1000 {
		k.guards = map[uint32]bool{}
	}
	k.guards[id] = true
}

// passGuards takes what was last seen for true up to the present generation, or the one
// before the first that changed more than guards of ports.
func (k *cache) passGuards(now uint32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.id != 0 && k.id != now && k.guards[k.id+1] {
		k.id++
		delete(k.guards, k.id)
	}
}

// forget drops the listings.
func (k *cache) forget() {
	k.id, k.whole, k.listed, k.handles = 0, false, nil, nil
}

// recall hands out a family's listing, nil if it is not known. The listing is
// the caller's, who may keep another one instead.
func (k *cache) recall(f firewall.Family) listing {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.listed[f]
	delete(k.listed, f)
	return l
}

// keep remembers what a family holds now.
func (k *cache) keep(f firewall.Family, l listing) {
	if k.listed == nil {
		k.listed = map[firewall.Family]listing{}
	}
	k.listed[f] = l
}

// restored is told that iptables-restore has changed chains.
func (k *cache) restored(changed map[chainKey][]string) {
	for key := range changed {
		delete(k.handles, key)
	}
}

// settle is told how many commits we made since refresh returned before. If the
// kernel counted as many, nobody else made one, and what was kept holds.
func (k *cache) settle(before uint32, commits int) {
	now := k.generation()
	if before == 0 || now != before+uint32(commits) {
		k.forget()
		return
	}
	if k.ours == nil || len(k.ours) > 1000 {
		k.ours = map[uint32]bool{}
	}
	for id := before; id != now; {
		id++
		k.ours[id] = true
	}
	k.id = now
}

// close closes the socket and forgets.
func (k *cache) close() error {
	k.forget()
	if k.socket == nil {
		return nil
	}
	err := k.socket.Close()
	k.socket = nil
	return err
}
