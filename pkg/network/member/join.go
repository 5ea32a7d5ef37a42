package member

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// A network of this host's own that becomes one of a cluster's has leases already. Before the
// other hosts hear of the network, the blocks that those are of are this host's: see Join.

// Joining is a network that becomes one of a cluster's.
type Joining struct {
	c       *Cluster
	network string
	pools   []cluster.Pool
	known   bool // the cluster had the network before
}

// Joins reports whether a network that had those documents, of which some may be nil, becomes one
// of its cluster's as doc says.
func (cs *Clusters) Joins(doc *netdef.Network, had ...*netdef.Network) bool {
	c := cs.Of(doc)
	had = slices.DeleteFunc(had, func(was *netdef.Network) bool { return was == nil })
	return c != nil && len(had) > 0 && !slices.ContainsFunc(had, func(was *netdef.Network) bool { return cs.Of(was) == c })
}

// Join begins to have a network of this host's own become one of its cluster's, with those leases,
// unless something that the cluster has is in the way: then the error is a Conflict with all of it, a
// line each. From then on Lender is what lends the network's addresses, and new ones are given of this
// host's blocks alone. Covered and End must follow.
func (cs *Clusters) Join(ctx context.Context, doc *netdef.Network, leases []dhcpd.Lease) (*Joining, error) {
	c := cs.Of(doc)
	c.settle(ctx)
	if s := c.Member.Status(); s.Phase != cluster.Joined {
		return nil, c.isAway(doc.Name, s.Reason)
	}
	s, err := inTheWay(c, doc, leases, ctx.Value(received{}) == nil)
	if err != nil {
		return nil, err
	}
	c.spanning.Lock()
	defer c.spanning.Unlock()
	if err := c.Member.SetSpan(s); err != nil {
		return nil, api.Errorf(api.Invalid, "%w", err)
	}
	c.setJoining(doc.Name, true)
	return &Joining{c, doc.Name, s.Pools, c.defined(doc.Name) != nil}, nil
}

// Foresee is what Join would say: what of the cluster is in the way of a network of this host's own
// with those leases. It changes nothing and waits for nothing.
func (cs *Clusters) Foresee(doc *netdef.Network, leases []dhcpd.Lease) error {
	c := cs.Of(doc)
	if s := c.Member.Status(); s.Phase != cluster.Joined {
		return c.isAway(doc.Name, s.Reason)
	}
	_, err := inTheWay(c, doc, leases, true)
	return err
}

// inTheWay returns the span that a network with those leases would be, unless something that the
// cluster has is in the way; another definition of the network counts where this host's is compared.
func inTheWay(c *Cluster, doc *netdef.Network, leases []dhcpd.Lease, compared bool) (cluster.Span, error) {
	s, err := spanOf(doc)
	if err != nil {
		return s, err
	}
	var unlike []string
	if compared {
		unlike = different(c, doc)
	}
	return s, conflict(doc.Name, c.Name, append(unlike, taken(c, doc.Name, s.Pools, leases)...))
}

// Begin has the leases of a family count where DHCP does not run, which does so itself.
func (j *Joining) Begin(is4 bool, all []dhcpd.Lease) { j.c.Tell(j.network, is4, all) }

// coveredAgain is how often is looked whether leases are covered.
const coveredAgain = 5 * time.Millisecond

// Covered waits until the blocks of all leases are this host's, and the cluster has these, or for
// writeWithin without any more of them. The error is Conflict where another host was quicker, and
// Busy where the cluster does not answer.
func (j *Joining) Covered(ctx context.Context) error {
	least, last := -1, time.Now()
	for {
		n := j.c.Member.Uncovered(j.network)
		switch {
		case n == 0:
			return j.taken()
		case least < 0 || n < least:
			least, last = n, time.Now()
		case time.Since(last) > writeWithin:
			return errors.Join(j.taken(), api.Errorf(api.Busy, "network %q: cluster %s does not answer: the addresses of %d leases are not claimed", j.network, j.c.Name, n))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(coveredAgain):
		}
	}
}

// taken finds leases of which another host has got the address meanwhile.
func (j *Joining) taken() error {
	var all []dhcpd.Lease
	for _, a := range j.c.held(j.network) {
		if l, mine := j.c.Lease(cluster.Address{Network: j.network, Addr: a}); mine {
			all = append(all, l)
		}
	}
	return conflict(j.network, j.c.Name, taken(j.c, j.network, j.pools, all))
}

// Withdraw takes back that the cluster was told of the network by doc, unless it had it before.
func (j *Joining) Withdraw(ctx context.Context, cs *Clusters, doc *netdef.Network) error {
	if j.known {
		return nil
	}
	return cs.Withdraw(ctx, doc)
}

// End ends what Join began: the network is the cluster's, or is not, and then nothing of it is left
// there.
func (j *Joining) End(joined bool) {
	j.c.spanning.Lock()
	defer j.c.spanning.Unlock()
	j.c.setJoining(j.network, false)
	if !joined {
		j.c.endAll(j.network)
		j.c.Member.DropSpan(j.network)
	}
}

// setJoining says that a network is becoming the cluster's, or not any more.
func (l *ledger) setJoining(network string, is bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.joining, network); !is {
		return
	}
	if l.joining == nil {
		l.joining = make(map[string]bool)
	}
	l.joining[network] = true
}

// joins reports whether a network is becoming the cluster's.
func (l *ledger) joins(network string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.joining[network]
}

// joiners are the networks that are.
func (l *ledger) joiners() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.joining))
}

// clashesAtMost is how many addresses that are in the way are told one by one.
const clashesAtMost = 20

// different lists how what the cluster has differs from a document: another network of that name, one
// that is not as doc says, its VNI.
func different(c *Cluster, doc *netdef.Network) (all []string) {
	was := c.defined(doc.Name)
	switch {
	case was == nil:
	case was.UUID != doc.UUID:
		all = append(all, fmt.Sprintf("the cluster has another network of that name, with uuid %s, and this one has %s", was.UUID, doc.UUID))
		fallthrough
	case !Same(was, doc):
		theirs, ours := Shared(was), Shared(doc)
		theirs.UUID, theirs.Bridge.Name = ours.UUID, ours.Bridge.Name
		for _, d := range netdef.Diff(theirs, ours) {
			all = append(all, fmt.Sprintf("%s: the cluster has %s, this host has %s", d.Path, cmp.Or(d.Old, "none"), cmp.Or(d.New, "none")))
		}
	}
	if c.Member.Claimed(doc.Span.VNI) != 0 && (was == nil || was.UUID != doc.UUID || was.Span.VNI != doc.Span.VNI) {
		all = append(all, fmt.Sprintf("VNI %d is that of another network of the cluster", doc.Span.VNI))
	}
	return all
}

// taken lists leases whose addresses other hosts have given to other cards, or may: those of pools
// that are in their blocks.
func taken(c *Cluster, network string, pools []cluster.Pool, leases []dhcpd.Lease) (all []string) {
	n := 0
	for i := range leases {
		l := &leases[i]
		r := recordOf(l)
		clash, found := c.Member.Clash(cluster.Address{Network: network, Addr: l.Addr}, r.MAC)
		if !found || clash.Block.IsValid() && !lent(pools, l.Addr) {
			continue
		}
		if n++; n > clashesAtMost {
			continue
		}
		if clash.Block.IsValid() {
			all = append(all, fmt.Sprintf("%v, which %s has here, is in the block %v of host %s", l.Addr, r.MAC, clash.Block, clash.Host))
		} else {
			all = append(all, fmt.Sprintf("%v, which %s has here, is that of %s on host %s", l.Addr, r.MAC, clash.MAC, clash.Host))
		}
	}
	if n > clashesAtMost {
		all = append(all, fmt.Sprintf("and %d more addresses", n-clashesAtMost))
	}
	return all
}

// lent reports whether hosts give an address of pools to anybody.
func lent(pools []cluster.Pool, a netip.Addr) bool {
	return slices.ContainsFunc(pools, func(p cluster.Pool) bool {
		return !a.Less(p.First) && !p.Last.Less(a) && !slices.Contains(p.Excluded, a)
	})
}

// conflict is the error of what is in a network's way, nil for nothing.
func conflict(network, cluster string, lines []string) error {
	errs := make([]error, 0, len(lines))
	for _, line := range lines {
		errs = append(errs, api.Errorf(api.Conflict, "network %q and cluster %s: %s", network, cluster, line))
	}
	return errors.Join(errs...)
}

// Resumes reports whether a network of this host's own is one of the cluster's since this host
// said so itself: it ended before the network was that here as well.
func (c *Cluster) Resumes(own *netdef.Network) bool {
	has, _ := c.Member.Definition(own.Name)
	is := c.defined(own.Name)
	return is != nil && is.UUID == own.UUID && has.Origin == c.Host && is.Span.On(c.Host)
}

// Apart reports whether a network, which was the cluster's, is each host's own by now.
func (c *Cluster) Apart(network string) bool {
	has, revision := c.Member.Definition(network)
	doc, err := netdef.Parse([]byte(has.XML))
	return revision != 0 && err == nil && doc.Span == nil
}

// Parts reports whether a network that is one of a cluster's as had, nil for none, says is none of
// that cluster's any more as doc says.
func (cs *Clusters) Parts(doc, had *netdef.Network) bool {
	return had != nil && had.Span != nil && had.Span.Cluster != "" && (doc.Span == nil || doc.Span.Cluster != had.Span.Cluster)
}

// Part has all hosts of the cluster of had take the network apart: each of them has it as its own
// from then on, as doc says. Where the cluster has no such network, or has this host left out, and
// where this host is not in the cluster any more, there is nothing to tell. The errors are Publish's.
func (cs *Clusters) Part(ctx context.Context, doc, had *netdef.Network) error {
	c := cs.Of(had)
	if c == nil || ctx.Value(received{}) != nil {
		return nil
	}
	c.settle(ctx)
	has, revision := c.Member.Definition(had.Name)
	was := c.defined(had.Name)
	switch {
	case was == nil || was.UUID != had.UUID || !was.Span.On(c.Host):
		return nil
	case !Same(was, had):
		return c.isBehind(had.Name)
	}
	own := Shared(doc)
	own.Span = nil
	next := record.Network{Head: has.Head, XML: string(own.XML()), Generation: has.Generation + 1, Autostart: has.Autostart}
	return c.write(ctx, had.Name, revision, record.Encode(&next), cluster.Txn{Then: []cluster.Op{{Key: c.vni(was)}}})
}
