package member

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// shown is what was seen of a cluster beside what its store has.
type shown struct {
	lock     sync.Mutex
	seen     map[string]time.Time // when each host was alive last
	problems map[string]error     // why this host does not have a network as the cluster does
}

// SetProblem says why this host does not have a network as the cluster does; nil: it has.
func (c *Cluster) SetProblem(network string, err error) {
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.problems == nil {
		c.problems = make(map[string]error)
	}
	if delete(c.problems, network); err != nil {
		c.problems[network] = err
	}
}

// Problems are networks that this host does not have as the cluster does, and why.
func (c *Cluster) Problems() map[string]error {
	c.lock.Lock()
	defer c.lock.Unlock()
	return maps.Clone(c.problems)
}

// Look takes in which hosts are alive.
func (c *Cluster) Look(now time.Time) {
	if c.Member.Status().Phase == cluster.Away {
		return
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	if c.seen == nil {
		c.seen = make(map[string]time.Time)
	}
	for _, p := range c.Member.Peers() {
		if !p.Silent {
			c.seen[p.Host] = now
		}
	}
}

// Status is how this host stands to the others.
func (c *Cluster) Status() api.Cluster {
	c.Look(time.Now())
	s := c.Member.Status()
	out := api.Cluster{
		Name: c.Name, Host: c.Host, Connected: s.Phase == cluster.Joined, Reason: s.Reason, Lost: s.Lost, Revision: s.Revision, Backlog: s.Backlog,
		Hosts: []api.ClusterHost{{Name: c.Host, State: api.HostSelf, Underlay: c.Underlay, Version: c.Version}},
	}
	if !s.Since.IsZero() {
		out.Since = &s.Since
	}
	c.lock.Lock()
	defer c.lock.Unlock()
	for _, p := range c.Member.Peers() {
		h := api.ClusterHost{Name: p.Host, State: api.HostAlive, Underlay: p.Underlay, Version: p.Version}
		switch {
		case s.Phase == cluster.Away:
			h.State = api.HostUnknown
		case p.Silent:
			h.State = api.HostSilent
		}
		if t, known := c.seen[p.Host]; known {
			h.Seen = &t
		}
		out.Hosts = append(out.Hosts, h)
	}
	slices.SortFunc(out.Hosts, func(a, b api.ClusterHost) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// Blocks are how the addresses of a network are shared out.
func (c *Cluster) Blocks(network string) api.Blocks {
	u := c.Member.Usage(network)
	return api.Blocks{Mine: u.Mine, Others: u.Others, Free: u.Free, Addresses: u.All}
}

// Share is how a network is shared with the hosts of its cluster; nil for none.
func (cs *Clusters) Share(doc *netdef.Network) *api.Share {
	c := cs.Of(doc)
	if c == nil {
		return nil
	}
	s := c.Status()
	out := &api.Share{
		Cluster: c.Name, Host: c.Host, Connected: s.Connected, Since: s.Since, Silent: []string{}, Backlog: s.Backlog,
		Blocks: c.Blocks(doc.Name), Elsewhere: len(c.Member.Remote(doc.Name)),
	}
	for _, h := range s.Hosts {
		if h.State == api.HostSilent && doc.Span.On(h.Name) {
			out.Silent = append(out.Silent, h.Name)
		}
	}
	return out
}
