package libvirtrpc

import (
	"bytes"
	"context"
	"fmt"
	"net"

	"github.com/vnetd/vnetd/pkg/network"
)

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
