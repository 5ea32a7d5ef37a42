package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Init makes a cluster in a store, with the rights of an administrator.
func Init(ctx context.Context, s Store, cluster, uuid string) error {
	return putMeta(ctx, s, cluster, record.Meta{UUID: uuid, Schema: record.Schema, Epoch: 1}, 0)
}

// InitAnew makes a cluster anew in a store that lost it, wholly or since a backup, so that
// hosts may restore what is theirs: hosts are all that belong to it.
func InitAnew(ctx context.Context, s Store, cluster, uuid string, epoch int, hosts []string) error {
	key := record.Key{Kind: record.KindMeta}.Path(cluster)
	l, err := s.List(ctx, key, 0)
	if err != nil {
		return err
	}
	meta, mod := record.Meta{UUID: uuid, Schema: record.Schema, Epoch: epoch}, int64(0)
	for _, kv := range l.KVs {
		if kv.Key != key {
			continue
		}
		if err := record.Decode(kv.Value, &meta); err != nil {
			return err
		}
		mod = kv.Mod
	}
	if meta.UUID != uuid {
		return fmt.Errorf("the store has another cluster %q, with UUID %s, want %s", cluster, meta.UUID, uuid)
	}
	meta.Epoch, meta.Await = max(meta.Epoch, epoch)+1, slices.Sorted(slices.Values(hosts))
	return putMeta(ctx, s, cluster, meta, mod)
}

func putMeta(ctx context.Context, s Store, cluster string, meta record.Meta, mod int64) error {
	key := record.Key{Kind: record.KindMeta}.Path(cluster)
	res, err := s.Txn(ctx, Txn{If: []Compare{{Key: key, Mod: mod}}, Then: []Op{{Key: key, Value: record.Encode(&meta)}}})
	if err == nil && !res.OK {
		err = fmt.Errorf("cluster %q is there already", cluster)
	}
	return err
}

// ErrAlive says that a host talks to the store.
var ErrAlive = errors.New("the host is alive: end its vnetd first, and its guests")

// Forget removes all that a host has in the store, with the rights of an administrator,
// and returns how many keys that were. The host must be off, and its guests with it: what it
// gave them is given to others from then on. One that talks to the store is refused, unless
// force says so.
func Forget(ctx context.Context, s Store, cluster, host string, force bool) (keys int, err error) {
	l, err := s.List(ctx, record.Prefix(cluster), 0)
	if err != nil {
		return 0, err
	}
	v := newView(cluster)
	for _, kv := range l.KVs {
		v.put(kv)
	}
	if _, alive := v.alive[host]; alive && !force {
		return 0, ErrAlive
	}
	// Its leases go last but for itself: as long as its blocks are there, nobody gives
	// their addresses, and nobody joins as it.
	var ops []Op
	for _, path := range slices.Sorted(maps.Keys(v.keys)) {
		k, err := record.Parse(cluster, path)
		if err == nil && !strings.HasPrefix(path, record.HostPrefix(cluster, host)) && v.belongs(k, host) {
			ops = append(ops, Op{Key: path})
		}
	}
	keys = len(ops)
	for _, path := range slices.Sorted(maps.Keys(v.keys)) {
		if strings.HasPrefix(path, record.HostPrefix(cluster, host)) {
			keys++
		}
	}
	ops = append(ops, Op{Key: record.HostPrefix(cluster, host), Prefix: true})
	for len(ops) > 0 {
		n := min(len(ops), MaxOps)
		if _, err := s.Txn(ctx, Txn{Then: ops[:n]}); err != nil {
			return 0, err
		}
		ops = ops[n:]
	}
	return keys, v.unawait(ctx, s, host)
}

// unawait has nobody wait for a host that will not come back.
func (v *view) unawait(ctx context.Context, s Store, host string) error {
	if v.meta == nil || !slices.Contains(v.meta.Await, host) {
		return nil
	}
	meta := *v.meta
	meta.Await = slices.DeleteFunc(slices.Clone(meta.Await), func(h string) bool { return h == host })
	return putMeta(ctx, s, v.cluster, meta, v.keys[record.Key{Kind: record.KindMeta}.Path(v.cluster)].mod)
}
