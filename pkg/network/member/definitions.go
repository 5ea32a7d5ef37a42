package member

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/netdef/span"
)

// writeWithin is how long is waited for the store to take a definition.
const writeWithin = 5 * time.Second

// received marks the context of what another host has written.
type received struct{}

// Received says that what is done with ctx follows what the cluster has already.
func Received(ctx context.Context) context.Context {
	return context.WithValue(ctx, received{}, true)
}

// Settle waits, shortly, until this host has joined the cluster of a document's network, or knows why
// not: a vnetd that has just started is ready before that.
func (cs *Clusters) Settle(ctx context.Context, doc *netdef.Network) {
	if c := cs.Of(doc); c != nil {
		c.settle(ctx)
	}
}

func (c *Cluster) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	select {
	case <-c.Member.Known():
	case <-ctx.Done():
	}
}

// Publish has all hosts of a document's cluster define it, before this host does, whose definition
// is had, nil for none. It starts with hosts as it does already; as autostart says where the cluster
// has no such network. The error is
// Busy where the cluster is away, another host has just changed the network, or doc is made of a
// definition that others have changed since: nothing is
// changed then. A document of this host alone, and what the hosts have already, is nothing to
// do.
func (cs *Clusters) Publish(ctx context.Context, doc, had *netdef.Network, autostart bool) error {
	c := cs.Of(doc)
	if c == nil || ctx.Value(received{}) != nil {
		return nil
	}
	c.settle(ctx)
	has, revision := c.Member.Definition(doc.Name)
	was := c.defined(doc.Name)
	switch {
	case was == nil:
	case was.UUID != doc.UUID:
		return api.Errorf(api.Exists, "cluster %s has a network '%s' with uuid %s", c.Name, doc.Name, was.UUID)
	case Same(was, doc):
		return nil
	case !was.Span.On(c.Host):
		return api.Errorf(api.Conflict, "cluster %s has a network '%s', and this host is not among its hosts: define it on one of them", c.Name, doc.Name)
	case cs.Of(had) == c && !Same(was, had) && !Same(doc, had):
		return c.isBehind(doc.Name)
	default:
		autostart = has.Autostart
	}
	next := record.Network{Head: has.Head, XML: string(Shared(doc).XML()), Generation: has.Generation + 1, Autostart: autostart, Origin: has.Origin}
	if was == nil {
		next.Origin = c.Host
	}
	txn := cluster.Txn{}
	if was == nil || was.Span.VNI != doc.Span.VNI {
		if c.Member.Claimed(doc.Span.VNI) != 0 {
			return api.Errorf(api.Conflict, "network/vnetd:span/@vni: '%d': the VNI is that of another network of cluster %s", doc.Span.VNI, c.Name)
		}
		claim := record.VNI{Network: doc.UUID}
		txn.If = append(txn.If, cluster.Compare{Key: c.vni(doc)})
		txn.Then = append(txn.Then, cluster.Op{Key: c.vni(doc), Value: record.Encode(&claim)})
		if was != nil {
			txn.Then = append(txn.Then, cluster.Op{Key: c.vni(was)})
		}
	}
	return c.write(ctx, doc.Name, revision, record.Encode(&next), txn)
}

// Mark has a document's network start with all hosts of its cluster, or not. The errors are
// Publish's.
func (cs *Clusters) Mark(ctx context.Context, doc *netdef.Network, autostart bool) error {
	c := cs.Of(doc)
	if c == nil || ctx.Value(received{}) != nil {
		return nil
	}
	c.settle(ctx)
	next, revision := c.Member.Definition(doc.Name)
	switch was := c.defined(doc.Name); {
	case was == nil || was.UUID != doc.UUID:
		return cs.Publish(ctx, doc, nil, autostart)
	case next.Autostart == autostart:
		return nil
	}
	next.Generation, next.Autostart = next.Generation+1, autostart
	return c.write(ctx, doc.Name, revision, record.Encode(&next), cluster.Txn{})
}

// Known refuses a document that is not what its cluster has, for a network without a definition.
func (cs *Clusters) Known(doc *netdef.Network) error {
	c := cs.Of(doc)
	if c == nil {
		return nil
	}
	if was := c.defined(doc.Name); was == nil || !Same(was, doc) {
		return api.Errorf(api.Unsupported, "network/vnetd:span/@cluster: '%s': a network of a cluster is defined, for all hosts: define it, and start it", c.Name)
	}
	return nil
}

// defined is the definition of a network that the cluster has; nil for none, and for one that
// can't be read.
func (c *Cluster) defined(network string) *netdef.Network {
	has, revision := c.Member.Definition(network)
	if revision == 0 {
		return nil
	}
	doc, err := netdef.Parse([]byte(has.XML))
	if err != nil || doc.Span == nil {
		return nil
	}
	return doc
}

// vni is the key by which a document's network has its VNI.
func (c *Cluster) vni(doc *netdef.Network) string {
	return record.Key{Kind: record.KindVNI, ID: strconv.Itoa(doc.Span.VNI)}.Path(c.Name)
}

// Number gives a document a VNI that it leaves to the cluster: the one that the network has, or
// one that no network of the cluster has, and none in use. It is claimed with the definition.
func (cs *Clusters) Number(doc *netdef.Network, inUse func(vni int) bool) {
	c := cs.Of(doc)
	if c == nil || !doc.Span.Auto() {
		return
	}
	if was := c.defined(doc.Name); was != nil {
		doc.Span.VNI = was.Span.VNI
		return
	}
	for doc.Span.VNI == 0 || inUse(doc.Span.VNI) || c.Member.Claimed(doc.Span.VNI) != 0 {
		doc.Span.VNI = firstVNI + rand.IntN(span.MaxVNI-firstVNI+1)
	}
}

// firstVNI is the first that is given: those below are for people.
const firstVNI = 1 << 12

// Withdraw has all hosts of a document's cluster undefine it. Where the cluster has another network
// of the name, or has this host left out, there is nothing to do. The errors are Publish's.
func (cs *Clusters) Withdraw(ctx context.Context, doc *netdef.Network) error {
	c := cs.Of(doc)
	if c == nil || ctx.Value(received{}) != nil {
		return nil
	}
	c.settle(ctx)
	_, revision := c.Member.Definition(doc.Name)
	if revision == 0 {
		return nil
	}
	txn := cluster.Txn{}
	if was := c.defined(doc.Name); was != nil {
		if was.UUID != doc.UUID || !was.Span.On(c.Host) {
			return nil
		}
		txn.Then = append(txn.Then, cluster.Op{Key: c.vni(was)})
	}
	return c.write(ctx, doc.Name, revision, nil, txn)
}

// write writes the definition of a network, nil for none, in the place of the one of that
// revision, with what belongs to it.
func (c *Cluster) write(ctx context.Context, network string, revision int64, value []byte, with cluster.Txn) error {
	if s := c.Member.Status(); s.Phase != cluster.Joined {
		return c.isAway(network, s.Reason)
	}
	ctx, cancel := context.WithTimeout(ctx, writeWithin)
	defer cancel()
	key := record.Key{Kind: record.KindNetwork, Network: network}.Path(c.Name)
	with.If = append(with.If, cluster.Compare{Key: key, Mod: revision})
	with.Then = append(with.Then, cluster.Op{Key: key, Value: value})
	res, err := c.Runner.Store.Txn(ctx, with)
	switch {
	case errors.Is(err, cluster.ErrDenied):
		return api.Errorf(api.Denied, "network %q: this host may not change definitions in cluster %s: %w", network, c.Name, err)
	case err != nil:
		return api.Errorf(api.Busy, "network %q: cluster %s has not answered, and may have taken the definition: %w", network, c.Name, err)
	case !res.OK:
		return api.Errorf(api.Busy, "network %q: another host of cluster %s has just changed it: try again", network, c.Name)
	}
	c.see(ctx, res.Revision)
	return nil
}

// see waits, shortly, until this host has seen a change of its own: who changes the network next
// begins with it.
func (c *Cluster) see(ctx context.Context, revision int64) {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for s := c.Member.Status(); s.Phase == cluster.Joined && s.Revision < revision; s = c.Member.Status() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return
		}
	}
}

// isAway is the error of what can't be told the cluster now.
func (c *Cluster) isAway(network, reason string) error {
	return api.Errorf(api.Busy, "network %q: cluster %s is away, and no definition of its networks can change until it is back: %s", network, c.Name, reason)
}

// isBehind is the error of what is made of a definition that others have changed since.
func (c *Cluster) isBehind(network string) error {
	return api.Errorf(api.Busy, "network %q: another host of cluster %s has changed it, and this host does not have the change yet: vnetctl status %[1]s says why", network, c.Name)
}

// UUID is that of a network which hosts of a document's cluster have by its name; empty for none.
func (cs *Clusters) UUID(doc *netdef.Network) string {
	c := cs.Of(doc)
	if c == nil {
		return ""
	}
	if was := c.defined(doc.Name); was != nil {
		return was.UUID
	}
	return ""
}

// Shared is what of a document all hosts have: not who may use it on a host, nor what is a
// host's own.
func Shared(doc *netdef.Network) *netdef.Network {
	c := doc.Clone()
	own(c, new(netdef.Network))
	return c
}

// own gives a document what is a host's own of another one.
func own(doc, of *netdef.Network) {
	doc.Access, doc.Uplink, doc.HostAccess = of.Access, of.Uplink, of.HostAccess
	for i := range doc.IPs {
		doc.IPs[i].TFTPRoot = ""
		for j := range of.IPs {
			if of.IPs[j].Address == doc.IPs[i].Address {
				doc.IPs[i].TFTPRoot = of.IPs[j].TFTPRoot
			}
		}
	}
}

// Same reports whether two documents are one on all hosts. Their bridges may have other names.
func Same(a, b *netdef.Network) bool {
	a, b = Shared(a), Shared(b)
	a.Bridge.Name, b.Bridge.Name = "", ""
	return bytes.Equal(a.XML(), b.XML())
}

// Left reports whether a network, of which this host has the definition had, is not on this host
// any more as far as its cluster says: it has none, another one of the name, or one without this host.
func (c *Cluster) Left(had *netdef.Network) bool {
	if _, revision := c.Member.Definition(had.Name); revision == 0 {
		return true
	}
	is := c.defined(had.Name) // what can't be read says nothing
	return is != nil && (is.UUID != had.UUID || !is.Span.On(c.Host))
}

// Received is what this host has to make of the definition that its cluster has: nil where the
// network is not on this host, and a document without a cluster where it is each host's own again. had is this host's, nil for none: what is its own stays.
func (c *Cluster) Received(network string, had *netdef.Network, read func(xml []byte) (*netdef.Network, error)) (doc *netdef.Network, autostart bool, err error) {
	r, _ := c.Member.Definition(network)
	doc, err = read([]byte(r.XML))
	switch {
	case err != nil:
		return nil, false, err
	case doc.Name == network && doc.Span == nil:
		if had == nil || had.UUID != doc.UUID {
			return nil, false, nil
		}
	case doc.Name != network || doc.UUID == "" || doc.Span == nil || doc.Span.Cluster != c.Name || doc.Span.Auto():
		return nil, false, api.Errorf(api.Invalid, "the document is not that of network %q of cluster %s", network, c.Name)
	case !doc.Span.On(c.Host):
		return nil, false, nil
	}
	if had == nil {
		had = new(netdef.Network)
	}
	own(doc, had)
	if had.Bridge.Name != "" {
		doc.Bridge.Name = had.Bridge.Name
	}
	return doc, r.Autostart, nil
}
