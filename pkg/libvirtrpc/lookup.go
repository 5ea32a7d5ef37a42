package libvirtrpc

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// selected lists the networks that are active or not, as asked.
func (c *session) selected(active bool) []api.Network {
	var list []api.Network
	for _, n := range c.backend.Networks() {
		if info := n.Info(); info.Active == active && (active || info.Persistent) {
			list = append(list, info)
		}
	}
	return list
}

func countNetworks(active bool) func(context.Context, *session, noArgs, *encoder) error {
	return func(_ context.Context, c *session, _ noArgs, results *encoder) error {
		results.int32(int32(len(c.selected(active))))
		return nil
	}
}

// listNames lists at most as many names as the caller has room for.
func listNames(active bool) func(context.Context, *session, int32, *encoder) error {
	return func(_ context.Context, c *session, limit int32, results *encoder) error {
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

// wanted reports whether a caller who gave those flags wants the network.
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

func listAllNetworks(_ context.Context, c *session, a listArgs, results *encoder) error {
	if err := checkFlags(a.flags, listFlags, "networkConnectListAllNetworks"); err != nil {
		return err
	}
	var list []ref
	for _, n := range c.backend.Networks() {
		if info := n.Info(); wanted(info, a.flags) {
			list = append(list, refTo(info))
		}
	}
	return writeAll(results, "networks", list, a.fill, maxNetworks, (*encoder).ref)
}

func lookupByName(_ context.Context, c *session, name string, results *encoder) error {
	n, err := c.backend.ByName(name)
	if err != nil {
		if network.KindOf(err) == api.NotFound {
			err = failf(codeNoNetwork, "no network with matching name '%s'", name)
		}
		return err
	}
	results.ref(refTo(n.Info()))
	return nil
}

func lookupByUUID(_ context.Context, c *session, u uuid, results *encoder) error {
	n, err := c.backend.ByUUID(u.String())
	if err != nil {
		if network.KindOf(err) == api.NotFound {
			err = failf(codeNoNetwork, "no network with matching uuid '%s'", u)
		}
		return err
	}
	results.ref(refTo(n.Info()))
	return nil
}
