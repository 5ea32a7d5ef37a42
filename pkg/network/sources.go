package network

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/health"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// conditionSources lists what is looked at: other programs' doings, then what only
// the hub knows of its networks.
func (m *Manager) conditionSources() []health.Source {
	return []health.Source{
		health.Firewall(m.cfg.Rules, m.activeNetworks),
		{Name: "DHCP servers", Find: m.foreignServers},
		{Name: "options", Find: m.deafOptions},
		{Name: "records", Find: m.faultyRecords},
		health.Clock(),
		{Name: "disks", Find: m.diskConditions},
		health.Overlaps(m.cfg.Links.HostNets, m.activeNetworks),
		{Name: "leases", Find: m.lostLeases},
		{Name: "addresses", Find: m.contestedAddresses},
		{Name: "files", Find: m.unusableConditions},
		{Name: "orphans", Find: m.orphanConditions},
		{Name: "what could not be deleted", Find: m.unfinishedConditions},
	}
}

// activeNetworks are the active networks as conditions tell of them.
func (m *Manager) activeNetworks() []health.Network {
	var all []health.Network
	m.eachLive(func(n *Network, live *netdef.Network) {
		h := health.Network{Name: n.name, Bridge: live.Bridge.Name}
		for i := range live.IPs {
			h.Subnets = append(h.Subnets, live.IPs[i].Prefix().Masked())
		}
		all = append(all, h)
	})
	return all
}

// eachLive calls f with every active network.
func (m *Manager) eachLive(f func(n *Network, live *netdef.Network)) {
	for _, n := range m.all() {
		if live := n.liveNetwork(); live != nil {
			f(n, live)
		}
	}
}

// foreignMemory is how long another DHCP server is taken to be there after a
// client has chosen it.
const foreignMemory = 10 * time.Minute

// foreignServers are DHCP servers on bridges that are served by us.
func (m *Manager) foreignServers(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		srv := n.runningServices().DHCP()
		if srv == nil {
			return
		}
		for _, f := range srv.Foreign() {
			if time.Since(f.Seen) > foreignMemory {
				continue
			}
			all = append(all, api.Condition{
				Kind: "foreign-dhcp", Severity: api.SeverityWarning, Networks: []string{n.name},
				Message:  fmt.Sprintf("another DHCP server, %v, gives guests on %s addresses", f.Addr, live.Bridge.Name),
				Evidence: fmt.Sprintf("a DHCPREQUEST on %s names the server %v", live.Bridge.Name, f.Addr),
				Remedy:   fmt.Sprintf("ip neigh show to %v dev %s", f.Addr, live.Bridge.Name),
			})
		}
	})
	return all, nil
}

// deafOptions are lines of <dnsmasq:options> that nobody understands.
func (m *Manager) deafOptions(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		if lines := translate.NotUnderstood(live); len(lines) > 0 {
			all = append(all, api.Condition{
				Kind: "dnsmasq-options", Severity: api.SeverityWarning, Networks: []string{n.name},
				Message:  fmt.Sprintf("lines of <dnsmasq:options> of network %q are not understood and have no effect", n.name),
				Evidence: strings.Join(lines, "; "), Remedy: "vnetctl edit " + n.name,
			})
		}
	})
	return all, nil
}

// faultyRecords are names and records that can't be served, each by itself: an
// earlier version took them.
func (m *Manager) faultyRecords(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		_, faults := live.Served()
		for _, f := range faults {
			all = append(all, api.Condition{
				Kind: "faulty-record", Severity: api.SeverityWarning, Networks: []string{n.name},
				Message:  fmt.Sprintf("a name or record of network %q can't be served, and is left out", n.name),
				Evidence: f.Error(), Remedy: "vnetctl edit " + n.name,
			})
		}
	})
	return all, nil
}

// lostLeases tells of a lease database that was damaged when the store was opened.
func (m *Manager) lostLeases(context.Context) ([]api.Condition, error) {
	damage := m.cfg.Store.LeaseDamage()
	if damage == nil {
		return nil, nil
	}
	c := api.Condition{
		Kind: "leases-damaged", Severity: api.SeverityWarning,
		Message: "the lease database was damaged: guests whose leases are lost may get other addresses", Evidence: damage.Error(),
	}
	m.eachLive(func(n *Network, live *netdef.Network) {
		if translate.DHCPIP(live) != nil || translate.DHCP6IP(live) != nil {
			c.Networks = append(c.Networks, n.name)
		}
	})
	slices.Sort(c.Networks)
	return []api.Condition{c}, nil
}

// diskConditions are directories of the store that can't be written.
func (m *Manager) diskConditions(context.Context) ([]api.Condition, error) {
	var all []api.Condition
	for _, t := range m.cfg.Store.Troubles() {
		c := api.Condition{
			Kind: "disk-full", Severity: api.SeverityError, Evidence: t.Dir + ": " + t.Reason, Remedy: "df -h " + t.Dir,
			Message: fmt.Sprintf("nothing more can be written to %s: leases and networks are not kept", t.Dir),
		}
		if t.ReadOnly {
			c.Kind, c.Remedy = "disk-read-only", "findmnt --target "+t.Dir
		}
		if !t.State {
			c.Severity, c.Message = api.SeverityWarning, fmt.Sprintf("no network can be defined: %s can't be written", t.Dir)
		}
		all = append(all, c)
	}
	return all, nil
}
