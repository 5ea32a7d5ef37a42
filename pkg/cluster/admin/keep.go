package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Hosts lists the hosts of a cluster.
func Hosts(ctx context.Context, s cluster.Store, name string) (api.ClusterHostList, error) {
	sn, l, err := snapshot(ctx, s, name)
	if err != nil {
		return api.ClusterHostList{}, err
	}
	list := api.ClusterHostList{Cluster: name, UUID: sn.Meta().UUID, Revision: l.Revision, Waiting: append([]string{}, sn.Waiting()...), Hosts: []api.ClusterMember{}}
	for _, h := range sn.Hosts() {
		state := "gone"
		switch {
		case h.Alive:
			state = "alive"
		case h.Joined:
			state = "silent"
		}
		list.Hosts = append(list.Hosts, api.ClusterMember{
			Name: h.Host, State: state, Underlay: h.Member.Underlay, MTU: h.Member.MTU, Version: h.Member.Version,
			Blocks: h.Blocks, Guests: h.Guests, Leases: h.Leases,
		})
	}
	return list, nil
}

// Forget removes all that a host has in the store, and its right to write there.
func Forget(ctx context.Context, s Store, name, h string, force, secure bool) (api.ClusterForgotten, error) {
	done := api.ClusterForgotten{Host: h}
	if err := record.CheckHost(h); err != nil {
		return done, &api.Error{Kind: api.Invalid, Err: err}
	}
	if _, _, err := snapshot(ctx, s, name); err != nil {
		return done, err
	}
	var err error
	done.Keys, err = cluster.Forget(ctx, s, name, h, force)
	if errors.Is(err, cluster.ErrAlive) {
		return done, api.Errorf(api.InvalidState, "host %s is alive: end its guests and its vnetd first, or use --force", h)
	}
	known := false
	if err == nil && secure {
		known, err = s.RemoveHost(ctx, name, h)
	}
	if err == nil && done.Keys == 0 && !known {
		return done, api.Errorf(api.NotFound, "cluster %q has no host %q", name, h)
	}
	return done, err
}

// Export returns all keys of a cluster, but for those that go with a session.
func Export(ctx context.Context, s cluster.Store, name string) (api.ClusterKeys, error) {
	sn, l, err := snapshot(ctx, s, name)
	if err != nil {
		return api.ClusterKeys{}, err
	}
	meta := sn.Meta()
	all := api.ClusterKeys{Cluster: name, UUID: meta.UUID, Epoch: meta.Epoch, Revision: l.Revision, Keys: []api.ClusterKey{}}
	for _, kv := range l.KVs {
		if k, err := record.Parse(name, kv.Key); err == nil && k.Kind == record.KindAlive {
			continue
		}
		key := api.ClusterKey{Key: kv.Key, Value: kv.Value}
		if !json.Valid(kv.Value) {
			key.Value, key.Bytes = nil, kv.Value
		}
		all.Keys = append(all.Keys, key)
	}
	return all, nil
}

// value is that of a key, as the store has it.
func value(k api.ClusterKey) ([]byte, error) {
	if k.Value == nil {
		return k.Bytes, nil
	}
	var b bytes.Buffer
	err := json.Compact(&b, k.Value)
	return b.Bytes(), err
}

// Restore makes a cluster anew in a store that lost it, by what Export has kept: what it is,
// and the definitions of networks, where the store has none. What belongs to hosts they
// write themselves, and until each of them has, nobody claims addresses.
func Restore(ctx context.Context, s cluster.Store, name string, kept api.ClusterKeys) (api.ClusterRestored, error) {
	done := api.ClusterRestored{Waiting: []string{}, Written: []string{}, Conflicts: []api.ClusterConflict{}}
	l, err := listing(name, kept)
	if err != nil {
		return done, &api.Error{Kind: api.Invalid, Err: err}
	}
	has, err := s.List(ctx, record.Prefix(name), 0)
	if err != nil {
		return done, err
	}
	hosts := []string{}
	for _, h := range append(cluster.Read(name, l).Hosts(), cluster.Read(name, has).Hosts()...) { // those that came later, too
		if !slices.Contains(hosts, h.Host) {
			hosts = append(hosts, h.Host)
		}
	}
	if meta := cluster.Read(name, has).Meta(); meta != nil && meta.UUID != kept.UUID {
		return done, api.Errorf(api.Conflict, "the store has another cluster %q, with UUID %s, want %s", name, meta.UUID, kept.UUID)
	}
	for _, kv := range l.KVs { // first, so that no host sees the cluster without them
		if err := putBack(ctx, s, name, kv, &done); err != nil {
			return done, err
		}
	}
	if err := cluster.InitAnew(ctx, s, name, kept.UUID, kept.Epoch, hosts); err != nil {
		return done, err
	}
	meta, err := readMeta(ctx, s, name)
	if err != nil || meta == nil {
		return done, errors.Join(err, errors.New("the cluster that was made anew is not there"))
	}
	done.Epoch, done.Waiting = meta.Epoch, append(done.Waiting, meta.Await...)
	return done, nil
}

// listing is what Export has kept, as the store had it.
func listing(name string, kept api.ClusterKeys) (l cluster.Listing, err error) {
	if kept.Cluster != name || kept.UUID == "" || kept.Epoch < 1 {
		return l, fmt.Errorf("the file has cluster %q with UUID %q, not cluster %q", kept.Cluster, kept.UUID, name)
	}
	for _, k := range kept.Keys {
		v, err := value(k)
		if err == nil {
			_, err = record.Parse(name, k.Key)
		}
		if err != nil {
			return l, fmt.Errorf("key %s: %w", k.Key, err)
		}
		l.KVs = append(l.KVs, cluster.KV{Key: k.Key, Value: v})
	}
	return l, nil
}

// putBack writes a key that belongs to the administrator, if the store has none.
func putBack(ctx context.Context, s cluster.Store, name string, kv cluster.KV, done *api.ClusterRestored) error {
	k, err := record.Parse(name, kv.Key)
	if err != nil || k.Kind != record.KindNetwork && k.Kind != record.KindVNI {
		return err
	}
	res, err := s.Txn(ctx, cluster.Txn{If: []cluster.Compare{{Key: kv.Key}}, Then: []cluster.Op{{Key: kv.Key, Value: kv.Value}}})
	switch {
	case err != nil:
		return err
	case res.OK:
		done.Written = append(done.Written, kv.Key)
		return nil
	}
	l, err := s.List(ctx, kv.Key, 0)
	if err != nil {
		return err
	}
	for _, now := range l.KVs {
		if now.Key == kv.Key && !bytes.Equal(now.Value, kv.Value) {
			done.Conflicts = append(done.Conflicts, api.ClusterConflict{Key: kv.Key, Has: string(now.Value), Wants: string(kv.Value)})
		}
	}
	return nil
}

// Where finds the cards that have a MAC address, a name or an address, on all networks.
func Where(ctx context.Context, s cluster.Store, name, what string) ([]api.ClusterGuest, error) {
	sn, _, err := snapshot(ctx, s, name)
	if err != nil {
		return nil, err
	}
	found := []api.ClusterGuest{}
	for _, g := range sn.Guests() {
		if !is(g, what) {
			continue
		}
		found = append(found, api.ClusterGuest{
			Host: g.Host, Network: g.Network, MAC: g.MAC.String(), Name: g.Name, Addresses: g.Addresses, State: string(g.State),
		})
	}
	return found, nil
}

// is reports whether a card is the one that is looked for.
func is(g cluster.GuestState, what string) bool {
	if addr, err := netip.ParseAddr(what); err == nil {
		return slices.Contains(g.Addresses, addr)
	}
	if mac, err := record.ParseMAC(strings.ReplaceAll(what, "-", ":")); err == nil {
		return g.MAC == mac
	}
	return strings.EqualFold(g.Name, what)
}
