// Package flows ends connections in the kernel's table of connections, when the
// forwards end that led them, or rules come to refuse them, and counts those that go past
// the rules. Its messages are those of
// linux/netfilter/nfnetlink_conntrack.h.
package flows

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Messages, attributes and flags of nfnetlink_conntrack.h and nf_conntrack_common.h.
const (
	messageGet    = unix.NFNL_SUBSYS_CTNETLINK<<8 | 1
	messageNew    = unix.NFNL_SUBSYS_CTNETLINK << 8
	messageDelete = unix.NFNL_SUBSYS_CTNETLINK<<8 | 2

	ctaTupleOrig                  = 1
	ctaTupleReply                 = 2
	ctaStatus                     = 3
	ctaCountsOrig, ctaCountsReply = 9, 10
	ctaID                         = 12
	ctaZone                       = 18
	ctaStatusMask                 = 26

	ctaCountsPackets, ctaCountsBytes = 1, 2

	ctaTupleIP    = 1
	ctaTupleProto = 2

	ctaIPv4Src, ctaIPv4Dst, ctaIPv6Src, ctaIPv6Dst = 1, 2, 3, 4
	ctaProtoNum, ctaProtoSrcPort, ctaProtoDstPort  = 1, 2, 3

	statusDstNAT  = 1 << 5  // IPS_DST_NAT
	statusOffload = 1 << 14 // IPS_OFFLOAD
)

// deletedAtOnce is how many connections one datagram deletes.
const deletedAtOnce = 200

// Table is the kernel's table of connections in the network namespace of the thread that
// calls its methods.
type Table struct{}

var _ firewall.Flows = Table{}

// Cut is firewall.Flows'.
func (Table) Cut(forwards, stay []firewall.Forward) error {
	return each(forwards, func(s *netlink.Socket, f firewall.Family, of []firewall.Forward) error {
		var led [][]byte
		err := list(s, f, statusDstNAT, func(c *connection) {
			if c.ledBy(of) && !c.ledBy(stay) {
				led = append(led, c.deletion(f))
			}
		})
		if err != nil {
			return err
		}
		return remove(s, f, led)
	})
}

// End is firewall.Flows'.
func (Table) End(ends func(*firewall.Flow) bool) error {
	s, err := open()
	if err != nil {
		return err
	}
	var faults []error
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		var gone [][]byte
		err := list(s, f, 0, func(c *connection) {
			if flow := c.flow(); flow.Source.IsValid() && flow.Destination.IsValid() && ends(&flow) {
				gone = append(gone, c.deletion(f))
			}
		})
		if err == nil {
			err = remove(s, f, gone)
		}
		faults = append(faults, err)
	}
	return errors.Join(append(faults, s.Close())...)
}

// flow is the connection as guests see it.
func (c *connection) flow() firewall.Flow {
	f := firewall.Flow{Source: c.original.src, Destination: c.reply.src, Port: c.reply.srcPort, Led: c.led}
	for name, number := range numbers {
		if number == c.original.protocol {
			f.Protocol = name
		}
	}
	if c.original.protocol == unix.IPPROTO_ICMP || c.original.protocol == unix.IPPROTO_ICMPV6 {
		f.Protocol = "icmp"
	}
	return f
}

// open speaks to the kernel's connection tracking.
func open() (*netlink.Socket, error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("speaking to the kernel's connection tracking: %w", err)
	}
	return s, nil
}

// Count is firewall.Flows'.
func (Table) Count(groups [][]firewall.Forward) ([]firewall.Tally, error) {
	tallies := make([]firewall.Tally, len(groups))
	var all []firewall.Forward
	leads := make(map[guestPort][]led)
	for i, forwards := range groups {
		all = append(all, forwards...)
		for _, f := range forwards {
			at := guestPort{protocol: numbers[f.Protocol], addr: f.To}
			if f.Ports.Start == f.Ports.End {
				at.port = f.ToPort
			}
			leads[at] = append(leads[at], led{i, f})
		}
	}
	err := each(all, func(s *netlink.Socket, f firewall.Family, _ []firewall.Forward) error {
		return list(s, f, statusDstNAT, func(c *connection) {
			for _, port := range []uint16{c.reply.srcPort, 0} {
				for _, l := range leads[guestPort{c.original.protocol, c.reply.src, port}] {
					if c.ledBy([]firewall.Forward{l.Forward}) {
						c.count(&tallies[l.group])
						return
					}
				}
			}
		})
	})
	return tallies, err
}

// guestPort is a port of a guest, 0 for a range, and led a forward that leads there, of a
// group.
type guestPort struct {
	protocol uint8
	addr     netip.Addr
	port     uint16
}

type led struct {
	group int
	firewall.Forward
}

// count adds the connection to a tally.
func (c *connection) count(t *firewall.Tally) {
	t.Connections++
	t.Packets, t.Bytes, t.Counted = t.Packets+c.packets, t.Bytes+c.bytes, t.Counted || c.counted
}

// Offloaded is firewall.Flows'.
func (Table) Offloaded() (n int, err error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("speaking to the kernel's connection tracking: %w", err)
	}
	var faults []error
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		faults = append(faults, list(s, f, statusOffload, func(c *connection) {
			if c.offloaded {
				n++
			}
		}))
	}
	return n, errors.Join(append(faults, s.Close())...)
}

// each calls do for each family that has some of the forwards.
func each(forwards []firewall.Forward, do func(*netlink.Socket, firewall.Family, []firewall.Forward) error) error {
	s, err := open()
	if err != nil {
		return err
	}
	var faults []error
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		of := slices.DeleteFunc(slices.Clone(forwards), func(forward firewall.Forward) bool { return forward.Family() != f })
		if len(of) > 0 {
			faults = append(faults, do(s, f, of))
		}
	}
	return errors.Join(append(faults, s.Close())...)
}

// list calls f with each connection of a family that the kernel tells of when asked for
// those with a status; 0: for all.
func list(s *netlink.Socket, family firewall.Family, status uint32, f func(*connection)) error {
	var failed error
	err := s.Exchange([][]byte{listing(family, status)}, func(_ int, m netlink.Message) bool {
		switch m.Type {
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			failed = m.Err()
			return true
		case messageNew:
			c := parse(m.Body)
			f(&c)
		}
		return false
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("listing the connections of %s: %w", family, err)
	}
	return nil
}

// remove deletes connections, by the messages that do.
func remove(s *netlink.Socket, f firewall.Family, deletions [][]byte) error {
	for some := range slices.Chunk(deletions, deletedAtOnce) {
		for _, err := range s.Do(some...) {
			if err != nil && !errors.Is(err, unix.ENOENT) { // it has ended
				return fmt.Errorf("ending connections of %s: %w", f, err)
			}
		}
	}
	return nil
}

// message is one of connection tracking, with the struct nfgenmsg before its attributes.
func message(kind uint16, f firewall.Family, attributes []byte) []byte {
	family := byte(unix.AF_INET)
	if f == firewall.IPv6 {
		family = unix.AF_INET6
	}
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST, []byte{family, unix.NFNETLINK_V0, 0, 0}, attributes)
}

// listing asks for the connections of a family with a status, 0 for all; kernels before 5.13
// tell of all.
func listing(f firewall.Family, status uint32) []byte {
	var attributes []byte
	if status != 0 {
		bits := binary.BigEndian.AppendUint32(nil, status)
		attributes = netlink.AppendAttribute(netlink.AppendAttribute(nil, ctaStatus, bits), ctaStatusMask, bits)
	}
	m := message(messageGet, f, attributes)
	netlink.AddFlags(m, unix.NLM_F_DUMP)
	return m
}

// tuple is one direction of a connection.
type tuple struct {
	protocol         uint8
	src, dst         netip.Addr
	srcPort, dstPort uint16
}

// connection is an entry of the table.
type connection struct {
	original, reply tuple
	led             bool // its destination was rewritten
	offloaded       bool // it goes past the rules
	counted         bool // the kernel counts what follows, of both directions
	packets, bytes  uint64
	names           []byte
}

// parse reads an entry. What is missing is zero.
func parse(body []byte) (c connection) {
	const nfgenmsgSize = 4
	for kind, value := range netlink.Attributes(body[min(nfgenmsgSize, len(body)):]) {
		switch kind {
		case ctaTupleOrig:
			c.original = parseTuple(value)
			c.names = netlink.AppendAttribute(c.names, unix.NLA_F_NESTED|kind, value)
		case ctaTupleReply:
			c.reply = parseTuple(value)
		case ctaCountsOrig, ctaCountsReply:
			c.parseCounts(value)
		case ctaStatus:
			if len(value) == 4 {
				status := binary.BigEndian.Uint32(value)
				c.led, c.offloaded = status&statusDstNAT != 0, status&statusOffload != 0
			}
		case ctaID, ctaZone:
			c.names = netlink.AppendAttribute(c.names, kind, value)
		}
	}
	return c
}

// parseCounts reads a CTA_COUNTERS.
func (c *connection) parseCounts(b []byte) {
	c.counted = true
	for kind, value := range netlink.Attributes(b) {
		if len(value) != 8 {
			continue
		}
		switch n := binary.BigEndian.Uint64(value); kind {
		case ctaCountsPackets:
			c.packets += n
		case ctaCountsBytes:
			c.bytes += n
		}
	}
}

// parseTuple reads a CTA_TUPLE.
func parseTuple(b []byte) (t tuple) {
	for group, values := range netlink.Attributes(b) {
		for kind, value := range netlink.Attributes(values) {
			switch group {
			case ctaTupleIP:
				t.setAddress(kind, value)
			case ctaTupleProto:
				t.setProtocol(kind, value)
			}
		}
	}
	return t
}

// setAddress reads an attribute of CTA_TUPLE_IP.
func (t *tuple) setAddress(kind uint16, value []byte) {
	a, _ := netip.AddrFromSlice(value)
	switch kind {
	case ctaIPv4Src, ctaIPv6Src:
		t.src = a
	case ctaIPv4Dst, ctaIPv6Dst:
		t.dst = a
	}
}

// setProtocol reads an attribute of CTA_TUPLE_PROTO.
func (t *tuple) setProtocol(kind uint16, value []byte) {
	switch {
	case kind == ctaProtoNum && len(value) == 1:
		t.protocol = value[0]
	case kind == ctaProtoSrcPort && len(value) == 2:
		t.srcPort = binary.BigEndian.Uint16(value)
	case kind == ctaProtoDstPort && len(value) == 2:
		t.dstPort = binary.BigEndian.Uint16(value)
	}
}

// numbers are those of the protocols of forwards.
var numbers = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// ledBy reports whether one of the forwards leads the connection.
func (c *connection) ledBy(forwards []firewall.Forward) bool {
	return c.led && slices.ContainsFunc(forwards, func(f firewall.Forward) bool {
		port := c.original.dstPort
		from := len(f.From) == 0 || slices.ContainsFunc(f.From, func(p netip.Prefix) bool { return p.Contains(c.original.src) })
		return from && c.original.protocol == numbers[f.Protocol] &&
			port >= f.Ports.Start && port <= f.Ports.End && (!f.Address.IsValid() || f.Address == c.original.dst) &&
			c.reply.src == f.To && c.reply.srcPort == f.ToPort+port-f.Ports.Start
	})
}

// deletion is the message that deletes the entry.
func (c *connection) deletion(f firewall.Family) []byte { return message(messageDelete, f, c.names) }
