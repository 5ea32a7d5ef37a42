package dhcpd

import (
	"net/netip"
	"os"
	"time"
)

// Datagram is one UDP datagram as it arrived.
type Datagram struct {
	Payload []byte
	Src     netip.AddrPort
	Dst     netip.Addr // our address, broadcast or a group
	HW      HWAddr     // the source of its frame, zero when that is not known; DHCPv6 only
}

// Reply is a reply on its way.
type Reply struct {
	Type    uint8 // message type, of the protocol's numbers
	Payload []byte
	Dst     netip.AddrPort
	// Framed: the receiver can't be found by ARP, since its address is new to it.
	// The reply is a frame to hw; otherwise the kernel routes it.
	Framed bool
	HW     HWAddr
}

// Transport carries datagrams between the server and one link. Send may be
// called at any time, the others by one goroutine.
type Transport interface {
	// Receive waits for a datagram, whose payload it puts into buf.
	Receive(buf []byte) (Datagram, error)
	// Send sends a reply. An error that wraps iface.ErrGone is final.
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
