package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	// answerTimeout bounds the wait for an answer of the kernel. The kernel
	// answers before sendto returns; only a lost answer takes so long.
	answerTimeout = 10 * time.Second

	// dumpTries is how often a dump is asked for when links, addresses or
	// routes change while the kernel writes it.
	dumpTries = 10
)

// conn is an rtnetlink socket for requests. Safe for concurrent use; requests
// queue for it.
type conn struct {
	handle *nl.SocketHandle
}

// dial opens a conn in the network namespace of the calling thread.
func dial() (*conn, error) {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening a netlink socket: %w", err)
	}
	timeout := unix.NsecToTimeval(answerTimeout.Nanoseconds())
	_ = s.SetReceiveTimeout(&timeout) // these two only store the value
	_ = s.SetSendTimeout(&timeout)
	// Both are comfort: error texts, and dumps filtered by the kernel (4.20)
	// rather than here.
	_ = s.SetExtAck(true)
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
	return &conn{handle: &nl.SocketHandle{Socket: s}}, nil
}

func (c *conn) close() { c.handle.Close() }

// do sends requests in one datagram and waits for all acknowledgements. The
// kernel handles the requests in order before the datagram's sendto returns:
// no other request of this conn comes between, the death of this process
// doesn't stop them half-way, and one that fails doesn't stop those behind it.
// The error joins those of all requests.
func (c *conn) do(reqs ...*nl.NetlinkRequest) error {
	return errors.Join(c.doEach(reqs...)...)
}

// doEach is do with the error of each request, nil for one that succeeded.
func (c *conn) doEach(reqs ...*nl.NetlinkRequest) []error {
	errs := make([]error, len(reqs))
	if err := c.sendAll(reqs, errs); err != nil {
		return append(errs, err)
	}
	return errs
}

// sendAll sends requests in one datagram and puts the answer to each in errs.
// Its own error means that some are missing.
func (c *conn) sendAll(reqs []*nl.NetlinkRequest, errs []error) error {
	s := c.handle.Socket
	s.Lock()
	defer s.Unlock()
	count := uint32(len(reqs))
	first := atomic.AddUint32(&c.handle.Seq, count) - count + 1
	var datagram []byte
	for i, req := range reqs {
		req.Seq = first + uint32(i)
		req.Flags |= unix.NLM_F_ACK
		datagram = append(datagram, req.Serialize()...)
	}
	err := unix.Sendto(s.GetFd(), datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if err != nil {
		return fmt.Errorf("sending a netlink request: %w", err)
	}
	return awaitAcks(s, first, errs)
}

// awaitAcks reads until the requests with sequence numbers from first on, one
// for each of errs, are acknowledged. What answers another request is a left-over
// and is dropped.
func awaitAcks(s *nl.NetlinkSocket, first uint32, errs []error) error {
	for left := len(errs); left > 0; {
		msgs, _, err := s.Receive()
		if err != nil {
			return fmt.Errorf("waiting for a netlink answer: %w", err)
		}
		for _, m := range msgs {
			nth := m.Header.Seq - first
			if m.Header.Type != unix.NLMSG_ERROR || nth >= uint32(len(errs)) {
				continue
			}
			errs[nth] = ackError(m)
			left--
		}
	}
	return nil
}

// ackError is the error that an NLMSG_ERROR message carries, nil for a plain
// acknowledgement. After the error code stands the request it answers, whole,
// and after that attributes.
func ackError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4+unix.SizeofNlMsghdr {
		return errors.New("short netlink answer")
	}
	request := 4 + (int(binary.NativeEndian.Uint32(m.Data[4:]))+3)&^3
	return answerError(m, request)
}

// doneError is the error that an NLMSG_DONE message carries, nil for a dump that
// is complete. Attributes follow the error code, which may be missing.
func doneError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 {
		return nil
	}
	return answerError(m, 4)
}

// answerError is the error of the code that m begins with, with the text for
// people that may be among the attributes (NLMSGERR_ATTR_MSG) from an offset on.
func answerError(m syscall.NetlinkMessage, offset int) error {
	code := int32(binary.NativeEndian.Uint32(m.Data))
	if code == 0 {
		return nil
	}
	err := error(syscall.Errno(-code))
	if m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || offset > len(m.Data) {
		return err
	}
	text := ""
	_ = attributes(m.Data[offset:], func(kind uint16, value []byte) error {
		if kind == unix.NLMSGERR_ATTR_MSG {
			text = unix.ByteSliceToString(value)
		}
		return nil
	})
	if text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

// get asks for one object; the answer has type kind.
func (c *conn) get(req *nl.NetlinkRequest, kind uint16) ([]byte, error) {
	msgs, err := c.execute(req, kind)
	if err != nil {
		return nil, err
	}
	if len(msgs) != 1 {
		return nil, fmt.Errorf("netlink gave %d answers, want one", len(msgs))
	}
	return msgs[0], nil
}

// dump asks for all objects of type kind that msg doesn't filter out, again
// when they changed while the kernel wrote them.
func (c *conn) dump(ask, kind uint16, msg nl.NetlinkRequestData) ([][]byte, error) {
	var err error
	for range dumpTries {
		req := nl.NewNetlinkRequest(int(ask), unix.NLM_F_DUMP)
		req.AddData(msg)
		var msgs [][]byte
		if msgs, err = c.execute(req, kind); err == nil {
			return msgs, nil
		}
		if !errors.Is(err, nl.ErrDumpInterrupted) {
			break
		}
	}
	return nil, err
}

// execute sends a request and returns the bodies of all answers of type kind. (The
// library's own way panics at a dump that ends with an error and a text.)
func (c *conn) execute(req *nl.NetlinkRequest, kind uint16) ([][]byte, error) {
	s := c.handle.Socket
	s.Lock()
	defer s.Unlock()
	req.Seq = atomic.AddUint32(&c.handle.Seq, 1)
	if err := s.Send(req); err != nil {
		return nil, fmt.Errorf("sending a netlink request: %w", err)
	}
	a := answer{seq: req.Seq, kind: kind}
	for !a.complete {
		msgs, _, err := s.Receive()
		if err != nil {
			return nil, fmt.Errorf("waiting for a netlink answer: %w", err)
		}
		for _, m := range msgs {
			a.add(m)
		}
	}
	if a.err == nil && a.interrupted {
		a.err = nl.ErrDumpInterrupted
	}
	return a.bodies, a.err
}

// answer is what the kernel has answered a request so far.
type answer struct {
	seq  uint32
	kind uint16 // of the messages wanted

	bodies      [][]byte
	interrupted bool
	complete    bool
	err         error
}

// add takes one more message. What answers another request is a left-over and is
// dropped.
func (a *answer) add(m syscall.NetlinkMessage) {
	if m.Header.Seq != a.seq || a.complete {
		return
	}
	a.interrupted = a.interrupted || m.Header.Flags&unix.NLM_F_DUMP_INTR != 0
	switch m.Header.Type {
	case unix.NLMSG_DONE:
		a.err, a.complete = doneError(m), true
		return
	case unix.NLMSG_ERROR:
		a.err, a.complete = ackError(m), true
		return
	case a.kind:
		a.bodies = append(a.bodies, m.Data)
	}
	a.complete = m.Header.Flags&unix.NLM_F_MULTI == 0
}

// doAlone sends one request on a socket of its own. For those that keep the
// kernel waiting for RCU grace periods (deleting a link takes tens of
// milliseconds), so that no other request queues behind them.
func doAlone(req *nl.NetlinkRequest) error {
	c, err := dial()
	if err != nil {
		return err
	}
	defer c.close()
	return c.do(req)
}
