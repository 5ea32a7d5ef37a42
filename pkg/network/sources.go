package network

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// conditionSource finds conditions of one sort. With an error comes what was found
// all the same.
type conditionSource struct {
	name string
	find func(ctx context.Context) ([]Condition, error)
}

// conditionSources lists them.
func (m *Manager) conditionSources() []conditionSource {
	var c clock
	return []conditionSource{
		{"firewall", m.firewallConditions},
		{"DHCP servers", m.foreignServers},
		{"options", m.deafOptions},
		{"clock", func(context.Context) ([]Condition, error) { return c.look(readClock()), nil }},
		{"disks", m.diskConditions},
		{"routes", m.overlaps},
		{"leases", m.lostLeases},
	}
}

// eachLive calls f with every active network.
func (m *Manager) eachLive(f func(n *Network, live *netdef.Network)) {
	for _, n := range m.all() {
		if live := n.liveNetwork(); live != nil {
			f(n, live)
		}
	}
}

// firewallConditions are what pkg/firewall finds, by network.
func (m *Manager) firewallConditions(ctx context.Context) ([]Condition, error) {
	found, err := m.cfg.Rules.Conditions(ctx)
	onBridge := map[string]string{}
	m.eachLive(func(n *Network, live *netdef.Network) { onBridge[live.Bridge.Name] = n.name })
	var all []Condition
	for _, f := range found {
		c := Condition{Kind: string(f.Kind), Severity: firewallSeverity(f), Message: f.Summary, Evidence: f.Evidence, Remedy: f.Remedy}
		for _, bridge := range f.Bridges {
			if name := onBridge[bridge]; name != "" {
				c.Networks = append(c.Networks, name)
			}
		}
		if len(f.Bridges) > 0 && len(c.Networks) == 0 {
			continue // they are about to start, and not all is in place yet
		}
		slices.Sort(c.Networks)
		all = append(all, c)
	}
	if m.cfg.Rules.Stats().Contended {
		all = append(all, Condition{
			Kind: "firewall-contended", Severity: SeverityWarning,
			Message:  "another program removes the networks' firewall rules as fast as they are put back",
			Evidence: "repairs follow each other without end",
			Remedy:   "journalctl -u vnetd -g 'firewall repaired'",
		})
	}
	return all, err
}

// firewallSeverity says how bad a condition of the firewall is.
func firewallSeverity(f firewall.Condition) Severity {
	switch {
	case f.Harmless:
		return SeverityInfo
	case f.Kind == firewall.KindBridgeNetfilter, f.Kind == firewall.KindNoIPTables && len(f.Bridges) == 0:
		return SeverityWarning
	}
	return SeverityError
}

// foreignMemory is how long another DHCP server is taken to be there after a
// client has chosen it.
const foreignMemory = 10 * time.Minute

// foreignServers are DHCP servers on bridges that are served by us.
func (m *Manager) foreignServers(context.Context) ([]Condition, error) {
	var all []Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		srv, _ := n.server(partDHCP).(*v4.Server)
		if srv == nil {
			return
		}
		for _, f := range srv.Foreign() {
			if time.Since(f.Seen) > foreignMemory {
				continue
			}
			all = append(all, Condition{
				Kind: "foreign-dhcp", Severity: SeverityWarning, Networks: []string{n.name},
				Message:  fmt.Sprintf("another DHCP server, %v, gives guests on %s addresses", f.Addr, live.Bridge.Name),
				Evidence: fmt.Sprintf("a DHCPREQUEST on %s names the server %v", live.Bridge.Name, f.Addr),
				Remedy:   fmt.Sprintf("ip neigh show to %v dev %s", f.Addr, live.Bridge.Name),
			})
		}
	})
	return all, nil
}

// deafOptions are lines of <dnsmasq:options> that nobody understands.
func (m *Manager) deafOptions(context.Context) ([]Condition, error) {
	var all []Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		if lines := notUnderstood(live); len(lines) > 0 {
			all = append(all, Condition{
				Kind: "dnsmasq-options", Severity: SeverityWarning, Networks: []string{n.name},
				Message:  fmt.Sprintf("lines of <dnsmasq:options> of network %q are not understood and have no effect", n.name),
				Evidence: strings.Join(lines, "; "), Remedy: "vnetctl edit " + n.name,
			})
		}
	})
	return all, nil
}

// lostLeases tells of a lease database that was damaged when the store was opened.
func (m *Manager) lostLeases(context.Context) ([]Condition, error) {
	damage := m.cfg.Store.LeaseDamage()
	if damage == nil {
		return nil, nil
	}
	c := Condition{
		Kind: "leases-damaged", Severity: SeverityWarning,
		Message: "the lease database was damaged: guests whose leases are lost may get other addresses", Evidence: damage.Error(),
	}
	m.eachLive(func(n *Network, live *netdef.Network) {
		if dhcpIP(live) != nil || dhcp6IP(live) != nil {
			c.Networks = append(c.Networks, n.name)
		}
	})
	slices.Sort(c.Networks)
	return []Condition{c}, nil
}

// diskConditions are directories of the store that can't be written.
func (m *Manager) diskConditions(context.Context) ([]Condition, error) {
	var all []Condition
	for _, t := range m.cfg.Store.Troubles() {
		c := Condition{
			Kind: "disk-full", Severity: SeverityError, Evidence: t.Dir + ": " + t.Reason, Remedy: "df -h " + t.Dir,
			Message: fmt.Sprintf("nothing more can be written to %s: leases and networks are not kept", t.Dir),
		}
		if t.ReadOnly {
			c.Kind, c.Remedy = "disk-read-only", "findmnt --target "+t.Dir
		}
		if !t.State {
			c.Severity, c.Message = SeverityWarning, fmt.Sprintf("no network can be defined: %s can't be written", t.Dir)
		}
		all = append(all, c)
	}
	return all, nil
}

// overlaps are subnets of active networks that the host reaches elsewhere as well:
// what came after the network started, such as a VPN.
func (m *Manager) overlaps(context.Context) ([]Condition, error) {
	nets, err := m.cfg.Links.HostNets()
	if err != nil {
		return nil, fmt.Errorf("looking for routes that overlap networks: %w", err)
	}
	var all []Condition
	m.eachLive(func(n *Network, live *netdef.Network) {
		for i := range live.IPs {
			p := live.IPs[i].Prefix().Masked()
			for _, other := range nets {
				if other.Link != live.Bridge.Name && p.Overlaps(other.Prefix) {
					all = append(all, overlap(n.name, live.Bridge.Name, p, other))
				}
			}
		}
	})
	return all, nil
}

// overlap is the condition of a subnet and what it overlaps. A wider route loses
// to the bridge's own: only what lies behind it can't be reached.
func overlap(name, own string, p netip.Prefix, other bridge.HostNet) Condition {
	c := Condition{
		Kind: "subnet-overlap", Severity: SeverityError, Networks: []string{name},
		Message:  fmt.Sprintf("the host has %v on %s: packets for guests on %s may go there", other.Prefix, other.Link, own),
		Evidence: fmt.Sprintf("network %q has %v, %s has %v", name, p, other.Link, other.Prefix),
		Remedy:   "ip route show root " + p.String(),
	}
	if other.Prefix.Bits() < p.Bits() {
		c.Severity = SeverityInfo
		c.Message = fmt.Sprintf("guests on %s hide the part %v of what lies behind %s", own, p, other.Link)
	}
	return c
}

// A jump of the clock is reported for jumpMemory; smaller ones than jumpLeast are
// what time servers correct.
const (
	jumpLeast  = 30 * time.Second
	jumpMemory = time.Hour
)

// reading is what two clocks show at one moment: the wall clock, which may be
// set, and the time since boot, which may not.
type reading struct{ wall, boot time.Duration }

// readClock reads both clocks, which every Linux has.
func readClock() reading {
	var wall, boot unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot)
	return reading{time.Duration(wall.Nano()), time.Duration(boot.Nano())}
}

// clock notices that the wall clock was set. The zero clock has not looked yet.
type clock struct {
	last, jumped reading
	by           time.Duration
}

// look compares now with the last reading.
func (c *clock) look(now reading) []Condition {
	if by := (now.wall - c.last.wall) - (now.boot - c.last.boot); c.last != (reading{}) && by.Abs() >= jumpLeast {
		c.by, c.jumped = by.Round(time.Second), now
	}
	c.last = now
	if c.by == 0 || now.boot-c.jumped.boot > jumpMemory {
		return nil
	}
	return []Condition{{
		Kind: "clock-jump", Severity: SeverityWarning,
		Message:  "the clock was set: leases from before end by the new time, not when their guests expect it",
		Evidence: fmt.Sprintf("by %v, to %s", c.by, time.Unix(0, int64(c.jumped.wall)).UTC().Format(time.RFC3339)),
		Remedy:   "timedatectl",
	}}
}
