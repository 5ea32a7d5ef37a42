package dhcpd

import (
	"net/netip"
	"os"
	"sync"
	"syscall"
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
	// Hidden: the link shows frames, but not whose this one's is: it came in fragments, or to a
	// former process, or several cards sent the same.
	Hidden bool
	// Waited: it may have come to a former process, or to none: nobody has found the socket empty
	// since this one has it.
	Waited bool
	// most is how many addresses Port may have, 0 for any number, negative: see Scope.PerPort.
	most int
}

// station is where somebody is, as Sender tells it.
type station struct {
	port   int32
	hw     iface.HWAddr
	hidden bool
}

// seat is who is counted together: a port, or a card where no port is known. All that are
// hidden are one, and those of whom nothing was seen none, which is 0.
type seat uint64

// station is where s is.
func (s Sender) station() station { return station{int32(s.Port), s.HW, s.Hidden} }

// seat is who is counted together with those at s.
func (s station) seat() seat {
	const port, hidden = 1 << 62, 1 << 61 // above the 48 bits of a card
	if s.port != 0 {
		return port | seat(uint32(s.port))
	}
	card := seat(0)
	for _, b := range s.hw {
		card = card<<8 | seat(b)
	}
	if s.hidden {
		card |= hidden
	}
	return card
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
	unsent bool // the kernel did not take it
}

// usualReply is as many bytes as nearly all replies have at most.
const usualReply = 384

// replies keeps those that were sent.
var replies sync.Pool

// NewReply returns an empty reply, whose Payload has room for most.
func NewReply() *Reply {
	if r, ok := replies.Get().(*Reply); ok {
		return r
	}
	return &Reply{Payload: make([]byte, 0, usualReply)}
}

// release leaves r to the next one.
func (r *Reply) release() {
	*r = Reply{Payload: r.Payload[:0]}
	replies.Put(r)
}

// ReturnTo has a reply to a neighbour go back to where its message came from, if that is
// known: the kernel need not ask for a neighbour that may not be there.
func (r *Reply) ReturnTo(from Sender) {
	if from.HW != (iface.HWAddr{}) {
		r.Framed, r.HW = true, from.HW
	}
}

// Outbox is replies that are sent with few calls. See GetOutbox.
type Outbox struct {
	iface.Outbox
	sent   [iface.BatchSize]*Reply
	failed func(*Reply, error)
	tell   func(at int, err error) // failed, of the one at a place; made once
}

// outboxes keeps those that nobody uses.
var outboxes sync.Pool

// GetOutbox returns an empty one, to be given back by Put, which tells failed of replies that the
// kernel does not take.
func GetOutbox(failed func(*Reply, error)) *Outbox {
	o, ok := outboxes.Get().(*Outbox)
	if !ok {
		o = new(Outbox)
		o.tell = func(at int, err error) { o.failed(o.sent[at], err) }
	}
	o.failed = failed
	return o
}

// Put gives it back. It must be empty.
func (o *Outbox) Put() {
	o.failed = nil
	outboxes.Put(o)
}

// Admit makes room for out, whose message is to be added next. Where there is none it is made by
// sending.
func (o *Outbox) Admit(out *Reply, conn syscall.RawConn) {
	if o.Len() == len(o.sent) {
		o.Flush(conn)
	}
	o.sent[o.Len()] = out
}

// Flush sends them, see iface.Outbox.
func (o *Outbox) Flush(conn syscall.RawConn) {
	n := o.Len()
	if n == 0 {
		return
	}
	o.Outbox.Flush(conn, o.tell)
	clear(o.sent[:n])
}

// Transport carries datagrams between the server and one link. Send may be
// called at any time, and what says so; the others by one goroutine.
type Transport interface {
	// Receive waits for datagrams and returns those that are there, in their order. Their
	// payloads are valid until the next call.
	Receive() ([]Datagram, error)
	// Collect takes in what tells where datagrams come from. It is called at each tick, so that
	// there is room for more of it, and soon again where it says that it was much. It may be
	// called at any time.
	Collect() (many bool)
	// Send sends replies, each at once or not at all: it waits for nobody, and keeps nothing of
	// them. It tells failed of those that the kernel did not take. An error that wraps
	// iface.ErrGone is final.
	Send(out []*Reply, failed func(*Reply, error))
	// Interrupt makes Receive return an error, now and from now on. It may be
	// called at any time.
	Interrupt()
	// Copy is another descriptor of what Receive reads. It may be called at any
	// time.
	Copy() (*os.File, error)
	// Close gives the resources back. No other method may be in use.
	Close() error
}

// Receive appends what in receives to all, for a Transport.
func Receive(in *iface.Intake, all []Datagram) ([]Datagram, error) {
	received, err := in.Receive()
	for i := range received {
		r := &received[i]
		from := Sender{HW: r.HW, Port: r.Port, Hidden: r.HW == iface.HWAddr{}, Waited: r.Waited}
		all = append(all, Datagram{Payload: r.Payload, Src: r.Src, Dst: r.Dst, From: from})
	}
	return all, err
}

// Handler acts on the messages of one protocol.
type Handler interface {
	// Handle acts on a datagram, with the engine locked. It returns the reply that can
	// leave at once, nil for none, and an error when the datagram is no message of a
	// client on this link.
	Handle(d Datagram, now time.Time) (*Reply, error)
	// Relayed reports whether a message, which need not be one, says that a relay agent
	// has sent it. It is called without the lock.
	Relayed(message []byte) bool
}
