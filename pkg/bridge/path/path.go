// Package path asks the kernel which way packets would take through this host: by which
// link, table and rule, and why not. It changes nothing.
package path

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

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
}

// Way is the way that a packet takes.
type Way struct {
	Out   int // ifindex of the link that it leaves by
	Table int // the routing table that says so
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
	mu     sync.Mutex
	socket *netlink.Socket
}

// Close closes the socket. The Asker can be used again.
func (a *Asker) Close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.socket != nil {
		_ = a.socket.Close()
	}
	a.socket = nil
}

// open is the socket.
func (a *Asker) open() (*netlink.Socket, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var err error
	if a.socket == nil {
		a.socket, err = netlink.Open(unix.NETLINK_ROUTE)
	}
	return a.socket, err
}

// Lookup asks which way a packet takes.
func (a *Asker) Lookup(p Packet) (Way, error) {
	s, err := a.open()
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
	return netlink.NewMessage(unix.RTM_GETROUTE, unix.NLM_F_REQUEST, head, attrs)
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
	w.Table = int(body[4])
	var code int32
	err = netlink.ParseAttributes(body[unix.SizeofRtMsg:], func(kind uint16, value []byte) error {
		switch {
		case kind == unix.RTA_OIF && len(value) >= 4:
			w.Out = int(binary.NativeEndian.Uint32(value))
		case kind == unix.RTA_TABLE && len(value) >= 4:
			w.Table = int(binary.NativeEndian.Uint32(value))
		case kind == unix.RTA_CACHEINFO && len(value) >= 16: // struct rta_cacheinfo, rta_error
			code = int32(binary.NativeEndian.Uint32(value[12:]))
		}
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
