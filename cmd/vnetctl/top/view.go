package top

import (
	"fmt"
	"strings"
	"time"

	"github.com/vnetd/vnetd/cmd/vnetctl/table"
)

// NetworkTable returns the table of networks.
func NetworkTable(networks []Network) *table.Table {
	t := &table.Table{
		Header: "NETWORK STATE PORTS RECEIVED SENT PACKETS DROPS STOPPED DHCP DNS",
		Spare:  "STOPPED PORTS STATE PACKETS DHCP DNS DROPS",
		Right:  "PORTS RECEIVED SENT PACKETS DROPS STOPPED DHCP DNS",
	}
	for _, n := range networks {
		t.Rows = append(t.Rows, []table.Cell{
			{Text: table.Printable(n.Name)},
			{Colour: table.StateColour(n.State), Text: table.Printable(string(n.State))},
			{Text: fmt.Sprint(len(n.Ports))},
			{Text: Bytes(n.ReceiveBytes)},
			{Text: Bytes(n.TransmitBytes)},
			{Text: Count(n.packets())},
			bad(n.Drops),
			bad(n.Stopped),
			{Text: Count(n.DHCP)},
			{Text: Count(n.DNS)},
		})
	}
	return t
}

// PortTable returns the table of ports.
func PortTable(ports []Port) *table.Table {
	t := &table.Table{
		Header: "PORT NETWORK GUEST RECEIVED SENT RX-PKTS TX-PKTS DROPS STOPPED",
		Spare:  "STOPPED NETWORK RX-PKTS TX-PKTS DROPS",
		Right:  "RECEIVED SENT RX-PKTS TX-PKTS DROPS STOPPED",
	}
	for _, p := range ports {
		t.Rows = append(t.Rows, []table.Cell{
			{Text: table.OrDash(p.IfName)},
			{Text: table.Printable(p.Network)},
			{Text: table.OrDash(p.Name)},
			{Text: Bytes(p.ReceiveBytes)},
			{Text: Bytes(p.TransmitBytes)},
			{Text: Count(p.ReceivePackets)},
			{Text: Count(p.TransmitPackets)},
			bad(p.Drops),
			bad(p.Stopped),
		})
	}
	return t
}

// bad is a rate that should be zero.
func bad(rate float64) table.Cell {
	c := table.Cell{Text: Count(rate)}
	if rate > 0 {
		c.Colour = table.Red
	}
	return c
}

// Bytes is a rate of bytes with a unit, as 1.2MB/s, in powers of 1000.
func Bytes(perSecond float64) string { return scaled(perSecond) + "B/s" }

// Count is a rate of anything else, as 1.2k.
func Count(perSecond float64) string { return scaled(perSecond) }

// scaled is a number with at most three digits that count and a prefix of the SI.
func scaled(x float64) string {
	prefix := ""
	for _, p := range []string{"k", "M", "G", "T"} {
		if x < 999.5 {
			break
		}
		x, prefix = x/1000, p
	}
	switch {
	case x == 0:
		return "0" + prefix
	case x < 0.05:
		return "<0.1" + prefix
	case x < 9.95:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0") + prefix
	}
	return fmt.Sprintf("%.0f", x) + prefix
}

// Head is the line above the tables.
func Head(p Picture, every time.Duration) []table.Span {
	ports := 0
	for _, n := range p.Networks {
		ports += len(n.Ports)
	}
	line := []table.Span{
		{Colour: table.Bold, Text: p.Time.Format(time.TimeOnly)},
		{Text: fmt.Sprintf("  every %v", every)},
		{Text: fmt.Sprintf("  networks: %d", len(p.Networks))},
		{Text: fmt.Sprintf("  ports: %d", ports)},
	}
	if c := p.Conntrack; c != nil && c.Limit > 0 {
		colour := table.Plain
		switch used := float64(c.Entries) / float64(c.Limit); {
		case used >= 0.95:
			colour = table.Red
		case used >= 0.8:
			colour = table.Yellow
		}
		line = append(line, table.Span{Colour: colour, Text: fmt.Sprintf("  connections: %d of %d", c.Entries, c.Limit)})
	}
	return line
}
