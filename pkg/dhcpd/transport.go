package dhcpd

import (
	"net/netip"
	"os"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// Datagram is one UDP datagram as it arrived.
type Datagram struct {
	Payload []byte
	Src     netip.AddrPort
	Dst     netip.Addr // our address, broadcast or a group
	From    Sender
}

// Sender is where a message entered the link, which its contents can't forge.
type Sender struct {
	// HW is the source of the frame, zero when that is not known.
	HW iface.HWAddr
	// Port is the ifindex of the bridge's port where HW was last seen, the bridge's own
	// where it was at none, 0 when that is not known.
	Port int
	// Hidden: the link shows frames, but not this one's: it came in fragments, or to a
	// former process.
	Hidden bool
	// most is how many addresses Port may have, 0 for any number, negative: see Scope.PerPort.
	most int
}

// station is who is counted together: a port, or a card where no port is known. All that
// are hidden are one, and those of whom nothing was seen none.
type station struct {
	port   int
	hw     iface.HWAddr
	hidden bool
}

func (s Sender) station() station {
	if s.Port != 0 {
		return station{port: s.Port}
	}
	return station{hw: s.HW, hidden: s.Hidden}
}

// Reply is a reply on its way.
type Reply struct {
	Type    uint8 // message type, of the protocol's numbers
	Payload []byte
	Dst     netip.AddrPort
	// Framed: the receiver can't be found by ARP, since its address is new to it.
	// The reply is a frame to hw; otherwise the kernel routes it.
	Framed bool
	HW     iface.HWAddr
}

// ReturnTo has a reply to a neighbour go back to where its message came from, if that is
// known: the kernel need not ask for a neighbour that may not be there.
func (r *Reply) ReturnTo(from Sender) {
	if from.HW != (iface.HWAddr{}) {
		r.Framed, r.HW = true, from.HW
	}
}

// Transport carries datagrams between the server and one link. Send may be
// called at any time, the others by one goroutine.
type Transport interface {
	// Receive waits for a datagram, whose payload it puts into buf.
	Receive(buf []byte) (Datagram, error)
	// Port returns the ifindex of the bridge's port where a card was last seen, as
	// Sender.Port. It may be called at any time.
	Port(hw iface.HWAddr) int
	// Send sends a reply, or fails at once: it waits for nobody. An error that wraps
	// iface.ErrGone is final.
	Send(out *Reply) error
	// Interrupt makes Receive return an error, now and from now on. It may be
	// called at any time.
	Interrupt()
	// Copy is another descriptor of what Receive reads. It may be called at any
	// time.
	Copy() (*os.File, error)
	// Close gives the resources back. No other method may be in use.
	Close() error
}

// Handler acts on the messages of one protocol.
type Handler interface {
	// Handle acts on a datagram, with the engine locked. It returns the reply that can
	// leave at once, nil for none, and an error when the datagram is no message of a
	// client on this link.
	Handle(d Datagram, now time.Time) (*Reply, error)
}
