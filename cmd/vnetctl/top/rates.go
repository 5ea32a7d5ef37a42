// Package top shows what passes networks and ports, and what their services are asked,
// again and again on a terminal. What it shows is the difference of two counts.
package top

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// Picture is what happened in a second between two counts, on average.
type Picture struct {
	Time      time.Time      `json:"time"`      // of the second count
	Seconds   float64        `json:"seconds"`   // between the two
	Conntrack *api.Conntrack `json:"conntrack"` // at the second; null where the kernel tracks no connections
	Networks  []Network      `json:"networks"`
}

// Network is what happened on a network: of all its ports together, and of its services.
type Network struct {
	Name   string    `json:"name"`
	UUID   string    `json:"uuid"`
	State  api.State `json:"state"`
	Bridge string    `json:"bridge"`
	Load
	DHCP  float64 `json:"dhcp_per_second"` // messages of clients
	DNS   float64 `json:"dns_per_second"`  // queries
	Ports []Port  `json:"ports"`
}

// Port is what happened on a port, from its guest's point of view.
type Port struct {
	UUID    string `json:"uuid"`
	Network string `json:"network"`
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	IfName  string `json:"ifname"`
	Load
}

// Load is what passed in a second, and what did not.
type Load struct {
	ReceiveBytes    float64 `json:"receive_bytes_per_second"`
	ReceivePackets  float64 `json:"receive_packets_per_second"`
	TransmitBytes   float64 `json:"transmit_bytes_per_second"`
	TransmitPackets float64 `json:"transmit_packets_per_second"`
	Drops           float64 `json:"drops_per_second"`   // packets dropped or failed, in both directions
	Stopped         float64 `json:"stopped_per_second"` // frames of guests that guards have stopped
}

// plus adds another load to l.
func (l *Load) plus(other Load) {
	l.ReceiveBytes += other.ReceiveBytes
	l.ReceivePackets += other.ReceivePackets
	l.TransmitBytes += other.TransmitBytes
	l.TransmitPackets += other.TransmitPackets
	l.Drops += other.Drops
	l.Stopped += other.Stopped
}

// packets are those of both directions.
func (l *Load) packets() float64 { return l.ReceivePackets + l.TransmitPackets }

// Between returns what happened between two counts. Of what is new in the second nothing
// is known yet; what has begun anew is counted from there.
func Between(before, after api.Counts) Picture {
	p := Picture{Time: after.Time, Seconds: after.Time.Sub(before.Time).Seconds(), Conntrack: after.Conntrack, Networks: []Network{}}
	rate := func(was, is uint64) float64 {
		if is < was {
			was = 0
		}
		if p.Seconds <= 0 {
			return 0
		}
		return float64(is-was) / p.Seconds
	}
	networks, ports := index(before)
	for _, n := range after.Networks {
		was, known := networks[n.UUID]
		if !known {
			was = n
		}
		now := Network{
			Name: n.Name, UUID: n.UUID, State: n.State, Bridge: n.Bridge,
			DHCP: rate(was.DHCP, n.DHCP), DNS: rate(was.DNS, n.DNS), Ports: []Port{},
		}
		for _, c := range n.Ports {
			was, known := ports[c.UUID]
			if !known || was.IfName != c.IfName { // another program has made its device anew
				was = c
			}
			port := Port{UUID: c.UUID, Network: n.Name, Name: c.Name, MAC: c.MAC, IfName: c.IfName, Load: load(was, c, rate)}
			now.plus(port.Load)
			now.Ports = append(now.Ports, port)
		}
		p.Networks = append(p.Networks, now)
	}
	return p
}

// load is what passed a port.
func load(was, is api.PortCounts, rate func(was, is uint64) float64) Load {
	return Load{
		ReceiveBytes:    rate(was.Receive.Bytes, is.Receive.Bytes),
		ReceivePackets:  rate(was.Receive.Packets, is.Receive.Packets),
		TransmitBytes:   rate(was.Transmit.Bytes, is.Transmit.Bytes),
		TransmitPackets: rate(was.Transmit.Packets, is.Transmit.Packets),
		Drops: rate(was.Receive.Drops, is.Receive.Drops) + rate(was.Transmit.Drops, is.Transmit.Drops) +
			rate(was.Receive.Errors, is.Receive.Errors) + rate(was.Transmit.Errors, is.Transmit.Errors),
		Stopped: rate(was.Stopped, is.Stopped),
	}
}

// index returns networks and ports of a count by their UUIDs.
func index(c api.Counts) (map[string]api.NetworkCounts, map[string]api.PortCounts) {
	networks, ports := make(map[string]api.NetworkCounts), make(map[string]api.PortCounts)
	for _, n := range c.Networks {
		networks[n.UUID] = n
		for _, p := range n.Ports {
			ports[p.UUID] = p
		}
	}
	return networks, ports
}

// order is a way to sort.
type order struct {
	name  string // as it is shown
	value func(l *Load) float64
}

// orders are the ways to sort, in the order in which they are chosen. What has no value is
// sorted by name.
func orders() []order {
	return []order{
		{"traffic", func(l *Load) float64 { return l.ReceiveBytes + l.TransmitBytes }},
		{"received", func(l *Load) float64 { return l.ReceiveBytes }},
		{"sent", func(l *Load) float64 { return l.TransmitBytes }},
		{"packets", (*Load).packets},
		{"drops", func(l *Load) float64 { return l.Drops + l.Stopped }},
		{"name", nil},
	}
}

// Orders lists the names of the ways to sort.
func Orders() (names []string) {
	for _, o := range orders() {
		names = append(names, o.name)
	}
	return names
}

// Choice says what of a picture is wanted, and in which order.
type Choice struct {
	Order   string // of Orders; empty: the first
	Reverse bool
	Filter  string // part of the name of a network or guest, of a device or a MAC address; letters of either case
}

// Of returns the networks and the ports of p that are wanted. A network is wanted with all
// its ports, or for one of them.
func (c Choice) Of(p Picture) (networks []Network, ports []Port) {
	for _, n := range p.Networks {
		all := c.wants(n.Name, n.Bridge)
		found := len(ports)
		for _, port := range n.Ports {
			if all || c.wants(port.Name, port.IfName, port.MAC) {
				ports = append(ports, port)
			}
		}
		if all || len(ports) > found {
			networks = append(networks, n)
		}
	}
	slices.SortStableFunc(networks, func(x, y Network) int {
		return c.compare(&x.Load, &y.Load, strings.Compare(x.Name, y.Name))
	})
	slices.SortStableFunc(ports, func(x, y Port) int {
		return c.compare(&x.Load, &y.Load, cmp.Or(strings.Compare(x.Network, y.Network), strings.Compare(x.Name, y.Name), strings.Compare(x.IfName, y.IfName)))
	})
	return networks, ports
}

// wants reports whether the filter is part of one of the names.
func (c Choice) wants(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return strings.Contains(strings.ToLower(name), strings.ToLower(c.Filter)) })
}

// compare orders two loads, those with most first; equal ones are ordered as their names are.
func (c Choice) compare(x, y *Load, names int) int {
	result := names
	for _, o := range orders() {
		if o.name == cmp.Or(c.Order, orders()[0].name) && o.value != nil {
			result = cmp.Or(cmp.Compare(o.value(y), o.value(x)), names)
		}
	}
	if c.Reverse {
		return -result
	}
	return result
}
