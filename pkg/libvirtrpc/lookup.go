package libvirtrpc

import (
	"bytes"
	"context"
	"fmt"
	"net"

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

// leasesArgs are those of virNetworkGetDHCPLeases.
type leasesArgs struct {
	ref
	mac *string // of the leases that are wanted; nil: all
	listArgs
}

func readLeases(d *decoder) leasesArgs { return leasesArgs{readRef(d), d.optString(), readListAll(d)} }

func getDHCPLeases(_ context.Context, c *session, a leasesArgs, results *encoder) error {
	if err := checkFlags(a.flags, 0, "networkGetDHCPLeases"); err != nil {
		return err
	}
	n, err := c.network(a.ref)
	if err != nil {
		return err
	}
	list, err := n.Leases()
	if err != nil {
		return err
	}
	if a.mac != nil {
		if list, err = leasesOf(list, *a.mac); err != nil {
			return err
		}
	}
	return writeAll(results, "leases", list, a.fill, maxLeases, (*encoder).lease)
}

// leasesOf are those of list that a card has.
func leasesOf(list []network.Lease, mac string) ([]network.Lease, error) {
	card, err := net.ParseMAC(mac)
	if err != nil || len(card) != 6 {
		return nil, failf(codeInvalidMAC, "%s", mac)
	}
	var its []network.Lease
	for _, l := range list {
		if bytes.Equal(l.MAC, card) {
			its = append(its, l)
		}
	}
	return its, nil
}

// lease writes a lease (remote_network_dhcp_lease).
func (e *encoder) lease(l network.Lease) {
	expiry, kind, iaid, id := int64(0), int32(0), "", l.ClientID
	if !l.Expiry.IsZero() {
		expiry = l.Expiry.Unix()
	}
	if l.Addr.Is6() {
		kind, iaid, id = 1, fmt.Sprint(l.IAID), l.DUID
	}
	e.string(l.Interface)
	e.int64(expiry)
	e.int32(kind)
	e.optString(nonEmpty(l.MAC.String()))
	e.optString(nonEmpty(iaid))
	e.string(l.Addr.String())
	e.uint32(uint32(l.PrefixLen))
	e.optString(nonEmpty(l.Hostname))
	e.optString(nonEmpty(net.HardwareAddr(id).String()))
}
