package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// A question is sent from one of several sockets, picked by chance, each with a
// random port of the kernel's choice. A socket is for few questions and not for
// long, so that nobody learns from one question the port of the next (RFC 5452
// section 9.2), and a busy server opens one for many questions.
const (
	socketSlots     = 8
	socketQuestions = 64
	socketLife      = time.Second
)

// socket is a UDP socket that is connected to one server, and so receives from
// no other.
type socket struct {
	conn  *net.UDPConn
	until time.Time // no questions from then on

	mu      sync.Mutex
	pending map[uint16]*pending // by id
	begun   int
	closed  bool
}

// pending is a question that waits at a socket for its answer.
type pending struct {
	query  []byte      // does not change while it waits
	answer chan answer // has room for the one that will come
}

// answer is what came of a question: the message, or why there will be none.
type answer struct {
	msg      []byte
	doubtful bool // see check0x20
	err      error
}

// register prepares query to be sent to s: it sets its id, and the returned
// socket delivers its answer until unregister.
func (c *Client) register(s *Server, query []byte) (*socket, *pending, error) {
	p := &pending{query: query, answer: make(chan answer, 1)}
	var random [1]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	slot := &s.sockets[random[0]%socketSlots]
	if *slot != nil {
		if ok, err := (*slot).register(p); ok || err != nil {
			return *slot, p, err
		}
	}
	k, err := c.openSocket(s)
	if err != nil {
		return nil, nil, err
	}
	*slot = k
	_, err = k.register(p)
	return k, p, err
}

// openSocket opens a socket and reads from it.
func (c *Client) openSocket(s *Server) (*socket, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(s.addr))
	if err != nil {
		return nil, err
	}
	from, err := newArrival(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	k := &socket{conn: conn, until: time.Now().Add(socketLife), pending: make(map[uint16]*pending)}
	c.readers.Go(func() {
		defer func() { _ = conn.Close() }()
		stop := context.AfterFunc(c.ctx, func() { _ = conn.Close() })
		defer stop()
		c.read(s, k, from)
	})
	return k, nil
}

// register gives a question a random id; false: the socket takes no more.
func (k *socket) register(p *pending) (ok bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.begun == socketQuestions || time.Now().After(k.until) {
		return false, nil
	}
	id := p.query[:2]
	for {
		if _, err := rand.Read(id); err != nil {
			return false, err
		}
		if k.pending[binary.BigEndian.Uint16(id)] == nil {
			break
		}
	}
	k.pending[binary.BigEndian.Uint16(id)] = p
	k.begun++
	return true, nil
}

// unregister has no answer delivered to p any more.
func (k *socket) unregister(p *pending) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id := binary.BigEndian.Uint16(p.query); k.pending[id] == p {
		delete(k.pending, id)
	}
}

// read delivers what comes in, until the socket has had its time and no question
// is pending, or reading fails.
func (c *Client) read(s *Server, k *socket, from *arrival) {
	buf := make([]byte, wire.MaxQuery)
	for {
		if err := k.conn.SetReadDeadline(time.Now().Add(socketLife)); err != nil {
			k.fail(err)
			return
		}
		for {
			n, expected, err := from.read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				k.fail(err)
				return
			}
			if !expected || !k.deliver(s, buf[:n]) {
				c.Ignored.Add(1)
			}
		}
		if k.retire() {
			return
		}
	}
}

// deliver delivers msg to the question that it answers, which is not pending any
// more then. Everything else is ignored (RFC 5452 section 9.1), and false is
// returned.
func (k *socket) deliver(s *Server, msg []byte) bool {
	if len(msg) < wire.HeaderSize {
		return false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	id := binary.BigEndian.Uint16(msg)
	p := k.pending[id]
	if p == nil {
		return false
	}
	msg = wire.ReadAnswer(msg, p.query)
	if msg == nil {
		return false
	}
	possible, doubtful := s.check0x20(msg, p.query, time.Now())
	if possible {
		delete(k.pending, id)
		p.answer <- answer{msg: append([]byte(nil), msg...), doubtful: doubtful}
	}
	return possible
}

// fail ends the socket and has all pending questions fail.
func (k *socket) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, p := range k.pending {
		p.answer <- answer{err: err}
	}
	clear(k.pending)
}

// retire ends the socket if no question is pending, and returns whether it has
// ended.
func (k *socket) retire() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = k.closed || len(k.pending) == 0
	return k.closed
}
