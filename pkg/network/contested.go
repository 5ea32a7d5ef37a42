package network

import (
	"context"
	"fmt"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// contestedAddresses are those that the networks give to somebody, or have for
// themselves, while another client's lease of them runs.
func (m *Manager) contestedAddresses(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	m.eachLive(func(n *Network, _ *netdef.Network) {
		var contested []dhcpd.Contested
		if srv := n.runningServices().DHCP(); srv != nil {
			contested = srv.Contested()
		}
		if srv := n.runningServices().DHCP6(); srv != nil {
			contested = append(contested, srv.Contested()...)
		}
		for _, c := range contested {
			all = append(all, contestedCondition(n.name, c))
		}
	})
	return all, nil
}

// contestedCondition is one address of a network as a condition.
func contestedCondition(network string, c dhcpd.Contested) api.Condition {
	whose := fmt.Sprintf("is reserved for %s, which gets it", c.For)
	if c.For == "" {
		whose = "is the network's own, and its guest moves"
	}
	client, until := c.Lease.MAC.String(), "for ever"
	if client == "" {
		client = fmt.Sprintf("DUID %x", c.Lease.DUID)
	}
	if !c.Lease.Expiry.IsZero() {
		until = "until " + c.Lease.Expiry.UTC().Format(time.RFC3339)
	}
	return api.Condition{
		Kind: "address-leased", Severity: api.SeverityWarning, Networks: []string{network},
		Message:  fmt.Sprintf("%v %s when the lease of another guest ends", c.Lease.Addr, whose),
		Evidence: fmt.Sprintf("%v is leased to %s %s", c.Lease.Addr, client, until),
		Remedy:   "vnetctl leases " + network,
	}
}
