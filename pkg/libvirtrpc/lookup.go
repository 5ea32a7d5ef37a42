package libvirtrpc

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// selected lists the networks that are active or not, as asked.
func (c *client) selected(active bool) []api.Network {
	var list []api.Network
	for _, n := range c.s.cfg.Backend.Networks() {
		if info := n.Info(); info.Active == active && (active || info.Persistent) {
			list = append(list, info)
		}
	}
	return list
}

func countNetworks(active bool) func(context.Context, *client, noArgs, *encoder) error {
	return func(_ context.Context, c *client, _ noArgs, results *encoder) error {
		results.int32(int32(len(c.selected(active))))
		return nil
	}
}

// listNames lists at most as many names as the caller has room for.
func listNames(active bool) func(context.Context, *client, int32, *encoder) error {
	return func(_ context.Context, c *client, limit int32, results *encoder) error {
		if limit < 0 || limit > maxNetworks {
			return rpcf(codeRPC, "too many networks '%d' for limit '%d'", limit, maxNetworks)
		}
		list := c.selected(active)
		list = list[:min(len(list), int(limit))]
		results.uint32(uint32(len(list)))
		for _, info := range list {
			results.string(info.Name)
		}
		return nil
	}
}

// The flags of virConnectListAllNetworks, in pairs that exclude each other: of
// each pair, none or both mean all.
const (
	listInactive = 1 << iota
	listActive
	listPersistent
	listTransient
	listAutostart
	listNoAutostart

	listFlags = 1<<iota - 1
)

// wanted tells whether a caller who gave those flags wants the network.
func wanted(info api.Network, flags uint32) bool {
	pairs := []struct {
		yes, no uint32
		is      bool
	}{
		{listActive, listInactive, info.Active},
		{listPersistent, listTransient, info.Persistent},
		{listAutostart, listNoAutostart, info.Autostart},
	}
	for _, p := range pairs {
		asked := flags & (p.yes | p.no)
		if asked == p.yes && !p.is || asked == p.no && p.is {
			return false
		}
	}
	return true
}

// listArgs are those of the functions that list all there is, or only count it.
type listArgs struct {
	fill  bool
	flags uint32
}

func readListAll(d *decoder) listArgs { return listArgs{d.flag(), d.uint32()} }

func listAllNetworks(_ context.Context, c *client, a listArgs, results *encoder) error {
	if err := checkFlags(a.flags, listFlags, "networkConnectListAllNetworks"); err != nil {
		return err
	}
	var list []ref
	for _, n := range c.s.cfg.Backend.Networks() {
		if info := n.Info(); wanted(info, a.flags) {
			list = append(list, refTo(info))
		}
	}
	return writeAll(results, "networks", list, a.fill, maxNetworks, (*encoder).ref)
}

// writeAll writes a list, or an empty one where it is not wanted, and how many
// there are.
func writeAll[T any](results *encoder, what string, list []T, fill bool, limit int, write func(*encoder, T)) error {
	if len(list) > limit {
		return rpcf(codeRPC, "Too many %s '%d' for limit '%d'", what, len(list), limit)
	}
	if !fill {
		results.uint32(0)
		results.uint32(uint32(len(list)))
		return nil
	}
	results.uint32(uint32(len(list)))
	for _, item := range list {
		write(results, item)
	}
	results.uint32(uint32(len(list)))
	return nil
}

func lookupByName(_ context.Context, c *client, name string, results *encoder) error {
	n, err := c.s.cfg.Backend.ByName(name)
	if err != nil {
		if network.KindOf(err) == api.NotFound {
			err = failf(codeNoNetwork, "no network with matching name '%s'", name)
		}
		return err
	}
	results.ref(refTo(n.Info()))
	return nil
}

func lookupByUUID(_ context.Context, c *client, u uuid, results *encoder) error {
	n, err := c.s.cfg.Backend.ByUUID(u.String())
	if err != nil {
		if network.KindOf(err) == api.NotFound {
			err = failf(codeNoNetwork, "no network with matching uuid '%s'", u)
		}
		return err
	}
	results.ref(refTo(n.Info()))
	return nil
}

// refTo is a network as a ref.
func refTo(n api.Network) ref { return ref{n.Name, parseUUID(n.UUID)} }

// network is what r refers to. Its name is what the client knows it by; the UUID
// alone counts.
func (c *client) network(r ref) (Network, error) {
	n, err := c.s.cfg.Backend.ByUUID(r.uuid.String())
	if network.KindOf(err) == api.NotFound && err != nil {
		return nil, failf(codeNoNetwork, "no network with matching uuid '%s' (%s)", r.uuid, r.name)
	}
	return n, err
}
