// Package path asks the kernel which way packets would take through this host: by which
// link, table and rule, and why not. It changes nothing.
package path

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// rtmLookupTable asks for the table (RTM_F_LOOKUP_TABLE of linux/rtnetlink.h). IPv6 tells
// it in any case, and refuses the flag.
const rtmLookupTable = 0x1000

// Packet is a packet whose way is asked for.
type Packet struct {
	// From is its source; an invalid one is left to the kernel. It is needed where In is
	// given.
	From netip.Addr
	To   netip.Addr
	// In is the ifindex of the link that it comes in by, 0 for one of this host's own.
	In int
	// Bound is the ifindex of the link that a packet of this host's own is bound to, 0 for
	// none: that of a VRF has its table asked (net/l3mdev in the kernel).
	Bound int
	// Mark is its mark of netfilter's. Protocol is that of layer 4, 0 where no rule of
	// routing shall look at it, with the ports of TCP and UDP.
	Mark             uint32
	Protocol         uint8
	SrcPort, DstPort uint16
}

// Way is the way that a packet takes.
type Way struct {
	Out   int // ifindex of the link that it leaves by
	Table int // the routing table that says so
	// Local says that this host takes the packet itself.
	Local bool
	// Via is the router that it is handed to, invalid for none. Source is the one that a packet
	// of this host's own gets, invalid where the kernel does not say.
	Via, Source netip.Addr
}

// Why a packet does not go any way. A Lookup's error is one of them, or that of the
// question.
var (
	ErrNoRoute     = errors.New("no route")             // none leads there
	ErrUnreachable = errors.New("unreachable")          // a route of type unreachable, or the link that it comes in by does not forward
	ErrProhibited  = errors.New("prohibited")           // a route or rule of type prohibit
	ErrBlackhole   = errors.New("blackhole")            // a route or rule of type blackhole, or an address that no such packet may have
	ErrReverse     = errors.New("reverse path differs") // rp_filter: the way back does not lead out of the link that it comes in by
)

// refusals are what the kernel's answers mean (fib_props of net/ipv4/fib_semantics.c,
// fib_validate_source of net/ipv4/fib_frontend.c, ip6_route_info_create of
// net/ipv6/route.c).
var refusals = map[unix.Errno]error{
	unix.ENETUNREACH:  ErrNoRoute,
	unix.EHOSTUNREACH: ErrUnreachable,
	unix.EACCES:       ErrProhibited,
	unix.EINVAL:       ErrBlackhole,
	unix.EXDEV:        ErrReverse,
}

// Asker asks about ways in the network namespace of the thread that first asked. The zero value
// is ready; its methods may be called concurrently.
type Asker struct {
	socket netlink.Lazy
}

// Close closes the socket. The Asker can be used again.
func (a *Asker) Close() { a.socket.Close() }

// Lookup asks which way a packet takes.
func (a *Asker) Lookup(p Packet) (Way, error) {
	s, err := a.socket.Open()
	if err != nil {
		return Way{}, err
	}
	body, err := s.Get(question(p), unix.RTM_NEWROUTE)
	for errno, meaning := range refusals {
		if errors.Is(err, errno) {
			return Way{}, meaning
		}
	}
	if err != nil {
		return Way{}, fmt.Errorf("asking for the way to %v: %w", p.To, err)
	}
	return parseWay(body)
}

// question is the request of Lookup (RTM_GETROUTE of rtnetlink(7)).
func question(p Packet) []byte {
	head := make([]byte, unix.SizeofRtMsg)
	head[0], head[1] = family(p.To), byte(p.To.BitLen())
	if p.To.Is4() {
		binary.NativeEndian.PutUint32(head[8:], rtmLookupTable)
	}
	attrs := netlink.AppendAttribute(nil, unix.RTA_DST, p.To.AsSlice())
	if p.From.IsValid() {
		head[2] = byte(p.From.BitLen())
		attrs = netlink.AppendAttribute(attrs, unix.RTA_SRC, p.From.AsSlice())
	}
	if p.In != 0 {
		attrs = netlink.AppendAttribute(attrs, unix.RTA_IIF, netlink.Uint32(uint32(p.In)))
	}
	if p.Bound != 0 {
		attrs = netlink.AppendAttribute(attrs, unix.RTA_OIF, netlink.Uint32(uint32(p.Bound)))
	}
	if p.Mark != 0 {
		attrs = netlink.AppendAttribute(attrs, unix.RTA_MARK, netlink.Uint32(p.Mark))
	}
	attrs = appendTransport(attrs, p)
	return netlink.NewMessage(unix.RTM_GETROUTE, unix.NLM_F_REQUEST, head, attrs)
}

// appendTransport appends what is asked of layer 4: of the protocols that the kernel takes
// there (rtm_getroute_parse_ip_proto).
func appendTransport(attrs []byte, p Packet) []byte {
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP:
		attrs = netlink.AppendAttribute(attrs, unix.RTA_SPORT, binary.BigEndian.AppendUint16(nil, p.SrcPort))
		attrs = netlink.AppendAttribute(attrs, unix.RTA_DPORT, binary.BigEndian.AppendUint16(nil, p.DstPort))
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
	default:
		return attrs
	}
	return netlink.AppendAttribute(attrs, unix.RTA_IP_PROTO, []byte{p.Protocol})
}

// family is that of an address.
func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// parseWay reads the kernel's answer. IPv6 tells of a refusal by the type of the route.
func parseWay(body []byte) (w Way, err error) {
	if len(body) < unix.SizeofRtMsg {
		return Way{}, fmt.Errorf("an answer of %d bytes, want at least %d", len(body), unix.SizeofRtMsg)
	}
	w.Table, w.Local = int(body[4]), body[7] == unix.RTN_LOCAL
	var code int32
	err = netlink.ParseAttributes(body[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		if kind == unix.RTA_CACHEINFO && len(value) >= 16 { // struct rta_cacheinfo, rta_error
			code = int32(binary.NativeEndian.Uint32(value[12:]))
		}
		w.read(kind, value)
		return nil
	})
	if err != nil {
		return Way{}, err
	}
	if code != 0 {
		if meaning := refusals[unix.Errno(-code)]; meaning != nil {
			return w, meaning
		}
	}
	switch body[7] {
	case unix.RTN_BLACKHOLE:
		return w, ErrBlackhole
	case unix.RTN_UNREACHABLE:
		return w, ErrUnreachable
	case unix.RTN_PROHIBIT:
		return w, ErrProhibited
	}
	return w, nil
}

// read reads one attribute of the answer.
func (w *Way) read(kind uint16, value []byte) {
	switch {
	case kind == unix.RTA_OIF && len(value) >= 4:
		w.Out = int(binary.NativeEndian.Uint32(value))
	case kind == unix.RTA_TABLE && len(value) >= 4:
		w.Table = int(binary.NativeEndian.Uint32(value))
	case kind == unix.RTA_GATEWAY:
		w.Via, _ = netip.AddrFromSlice(value)
	case kind == unix.RTA_PREFSRC:
		w.Source, _ = netip.AddrFromSlice(value)
	}
}
