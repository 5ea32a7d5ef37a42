package iface

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// Received is a datagram as it arrived.
type Received struct {
	Payload []byte // valid until the next ones are received
	Src     netip.AddrPort
	Dst     netip.Addr // our address, broadcast or a group; the zero Addr when that is not known
	HW      HWAddr     // the source of the frame, all zero when it was not seen
	Waited  bool       // it may have come before Intake was there: the socket was not empty since then
	Port    int        // the ifindex of the bridge's port where HW was last seen, see Ports.Of; 0 without HW
}

// Intake receives what clients send to a UDP socket, many at a time, with where it came from.
// It is for one goroutine, but where it says otherwise.
type Intake struct {
	inbox  *inbox
	frames *Frames
	says   func(message []byte) HWAddr
	ports  *Ports
	all    []Received
	cards  []HWAddr
	places []int
}

// NewIntake returns that of a socket which receives at a port of a bridge and tells destinations.
// ifi is the bridge; says is whose card a message says that it is from, see Frames.Source.
func NewIntake(conn syscall.RawConn, ifi *net.Interface, ip6 bool, port uint16, says func(message []byte) HWAddr) (_ *Intake, err error) {
	in := &Intake{inbox: newInbox(conn), says: says}
	if in.frames, err = ListenFrames(ifi, ip6, port, 0); err != nil {
		return nil, err
	}
	if in.ports, err = OpenPorts(ifi.Index); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the bridge's table of addresses: %w", err), in.frames.Close())
	}
	return in, nil
}

// Receive waits for datagrams and returns those that are there, valid until the next call.
func (in *Intake) Receive() ([]Received, error) {
	n, err := in.inbox.next()
	if err != nil {
		return nil, err
	}
	in.frames.Collect()
	in.all, in.cards = in.all[:0], in.cards[:0]
	for i := range n {
		r := Received{Payload: in.inbox.body(i), Src: in.inbox.source(i), Dst: in.inbox.destination(i), Waited: in.inbox.waited}
		r.HW = in.frames.Source(r.Src, r.Dst, r.Payload, in.says(r.Payload))
		in.all, in.cards = append(in.all, r), append(in.cards, r.HW)
	}
	in.places = in.ports.At(in.cards, in.places[:0])
	for i := range in.all {
		in.all[i].Port = in.places[i]
	}
	return in.all, nil
}

// Collect is that of Frames. It may be called at any time.
func (in *Intake) Collect() (many bool) { return in.frames.Collect() }

// Cards is the way to send packets to cards of the bridge, by Outbox.ToCard. It may be used
// beside Receive.
func (in *Intake) Cards() syscall.RawConn { return in.frames.socket.raw }

// Close closes what Intake has opened itself.
func (in *Intake) Close() error { return errors.Join(in.frames.Close(), in.ports.Close()) }
