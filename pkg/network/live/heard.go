package live

import (
	"slices"
	"sync"

	"github.com/vnetd/vnetd/pkg/bridge/neighbour"
)

// heard is what the host has heard of the addresses of a network's guests.
type heard struct {
	mu    sync.Mutex
	asked bool              // guarded by mu
	all   []neighbour.Entry // guarded by mu
}

// learned are they, and whether the kernel was asked.
func (h *heard) learned() (all []neighbour.Entry, asked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.all), h.asked
}

// note notes them, and reports whether they were others.
func (h *heard) note(all []neighbour.Entry) (changed bool) {
	slices.SortFunc(all, func(a, b neighbour.Entry) int { return a.Addr.Compare(b.Addr) })
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = !h.asked || !slices.Equal(h.all, all)
	h.all, h.asked = all, true
	return changed
}

// News is what is new of a network's cluster.
type News struct {
	Peers bool // who the other hosts are
	Cards bool // where guests' cards are
	Pool  bool // which addresses this host gives
	Names bool // of guests on other hosts
}

// clustered is what of its cluster a network has still to follow.
type clustered struct {
	mu     sync.Mutex
	news   News // guarded by mu
	coming bool // somebody is about to see news; guarded by mu
}

// add adds news, and reports whether nobody is about to see them.
func (c *clustered) add(news News) (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := &c.news
	n.Peers, n.Cards, n.Pool, n.Names = n.Peers || news.Peers, n.Cards || news.Cards, n.Pool || news.Pool, n.Names || news.Names
	first = !c.coming
	c.coming = true
	return first
}

// take takes the news.
func (c *clustered) take() (news News) {
	c.mu.Lock()
	defer c.mu.Unlock()
	news, c.news, c.coming = c.news, News{}, false
	return news
}
