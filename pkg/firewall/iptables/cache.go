package iptables

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// cache is what was last seen in the kernel. Under nf_tables it is true until a
// generation in which somebody else has changed more than guards of ports, so that a
// change needs no listing when nobody did.
type cache struct {
	mu      sync.Mutex // for recall: the families are served side by side
	socket  *nfnetlink.Socket
	commits netlink.Subscription        // of which catchUp has read all but what came since
	coming  commit                      // of which catchUp has read a part
	id      uint32                      // the generation up to which listed is true; 0: none
	listed  map[firewall.Family]listing // families of variant nf_tables only
	whole   bool                        // nothing of ours was missing
	ours    map[uint32]bool             // generations that we made
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

// refresh forgets what is no longer true, and returns the generation up to which the rest
// is.
func (k *cache) refresh() uint32 {
	if !k.holds() {
		k.forget()
		k.id = k.generation()
		k.foreign = k.id
	}
	if k.handles == nil {
		k.handles = map[chainKey]map[string][]uint64{}
	}
	if k.templates == nil {
		k.templates = map[string]*template{}
	}
	return k.id
}

// holds reports whether what was last seen is still true.
func (k *cache) holds() bool {
	now := k.generation()
	k.catchUp(0)
	return k.reaches(now)
}

// reaches reports whether what was last seen is true up to a generation that there is, or was.
func (k *cache) reaches(generation uint32) bool {
	return generation != 0 && k.id != 0 && int32(generation-k.id) <= 0
}

// commitsBuffer has what some thousand networks and ports change wait at once.
const commitsBuffer = 4 << 20

// catchUp takes what was last seen for true past the commits of which the kernel has told:
// those to the tables of guards and the like, and as many others as are ours and have not
// been counted yet. It returns how many of these it has not met, and whether it was told
// of all commits. A process that has committed has had the kernel tell of it.
func (k *cache) catchUp(own int) (left int, all bool) {
	all = k.commits.Read(func(m netlink.Message) bool {
		g, ends := nfnetlink.ReadGeneration(m)
		if !ends {
			k.coming.note(m)
			return true
		}
		passes := k.coming.guards && !k.coming.others
		k.coming = commit{}
		switch {
		case k.id == 0 || k.reaches(g.ID): // it was seen already, or nothing was
		case passes && g.ID == next(k.id):
			k.id = g.ID
		case own > 0 && g.ID == next(k.id):
			own--
			k.id = g.ID
			k.note(g.ID)
		default:
			k.forget()
		}
		return true
	})
	if !all {
		k.coming = commit{}
		k.commits.Buffer = commitsBuffer
		_ = k.commits.Subscribe(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES) // else each commit has the rules be listed
	}
	return own, all
}

// next is the generation after another: none is 0.
func next(generation uint32) uint32 { return max(generation+1, 1) }

// note remembers a generation as ours.
func (k *cache) note(generation uint32) {
	if k.ours == nil || len(k.ours) > 1000 {
		k.ours = map[uint32]bool{}
	}
	k.ours[generation] = true
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
	left, all := k.catchUp(commits)
	switch {
	case before == 0:
		k.forget()
	case all && left == 0 && k.reaches(now):
	case !all && now == before+uint32(commits):
		for id := before; id != now; {
			id++
			k.note(id)
		}
		k.id = now
	default:
		k.forget()
	}
}

// close closes the socket and forgets.
func (k *cache) close() error {
	k.forget()
	k.commits.Close()
	if k.socket == nil {
		return nil
	}
	err := k.socket.Close()
	k.socket = nil
	return err
}
