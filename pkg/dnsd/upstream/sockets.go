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

	"github.com/vnetd/vnetd/pkg/dnsd/arrival"
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

	anySlot = -1 // picked by chance
)

// socket is a UDP socket that is connected to one server, and so receives from
// no other.
type socket struct {
	conn  *arrival.Socket
	to    *Server
	until time.Time // no questions from then on

	mu      sync.Mutex
	pending map[uint16]*pending // by id
	begun   int
	closed  bool
}

// pending is a question that waits at a socket for its answer.
type pending struct {
	query    []byte      // with its id, which it gets from its socket; does not change while it waits
	socket   *socket     // nil: it could not be asked
	answer   chan answer // has room for the one that will come
	inFlight *InFlight   // not nil: whose first attempt it is, which waits with patience at first, and without answer
}

// answer is what came of a question: the message, or why there will be none.
type answer struct {
	msg      []byte
	doubtful bool // see check0x20
	err      error
}

// pickSlot picks a slot by chance.
func pickSlot() int {
	var random [1]byte
	_, _ = rand.Read(random[:]) // it cannot fail
	return int(random[0] % socketSlots)
}

// register prepares p to be sent to s from a socket of a slot: it sets its id, and the
// socket delivers its answer until unregister.
func (c *Client) register(s *Server, p *pending, slot int, now time.Time) error {
	if slot == anySlot {
		slot = pickSlot()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.sockets[slot]
	if k != nil && c.enter(k, p, now) {
		return nil
	}
	k, err := c.openSocket(s)
	if err != nil {
		return err
	}
	s.sockets[slot] = k
	if !c.enter(k, p, now) {
		return net.ErrClosed
	}
	return nil
}

// openSocket opens a socket, which is read from.
func (c *Client) openSocket(s *Server) (*socket, error) {
	conn, err := arrival.Dial(s.addr, &s.way)
	if err != nil {
		return nil, err
	}
	k := &socket{conn: conn, to: s, until: time.Now().Add(socketLife), pending: make(map[uint16]*pending, socketQuestions)}
	if err := c.listen(k); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return k, nil
}

// enter gives a question a random id and has it wait at k; false: the socket takes no more.
func (c *Client) enter(k *socket, p *pending, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || k.begun == socketQuestions || now.After(k.until) {
		return false
	}
	id := p.query[:2]
	for {
		_, _ = rand.Read(id) // it cannot fail
		if k.pending[binary.BigEndian.Uint16(id)] == nil {
			break
		}
	}
	k.pending[binary.BigEndian.Uint16(id)] = p
	k.begun++
	p.socket = k
	if p.inFlight != nil {
		c.patience.add(p.inFlight, c.Timing.Stagger, now)
	}
	return true
}

// send sends a question that waits at a socket to s.
func (s *Server) send(p *pending) error {
	s.queries.Add(1)
	return p.socket.conn.Send(p.query)
}

// unregister has no answer delivered to p any more.
func (k *socket) unregister(p *pending) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if id := binary.BigEndian.Uint16(p.query); k.pending[id] == p {
		delete(k.pending, id)
	}
}

// listening are the sockets of a Client, which one goroutine reads from while there are any.
type listening struct {
	mu      sync.Mutex
	sockets map[int]*socket // by descriptor
	watch   *arrival.Watch  // nil: no goroutine
}

// listen has what comes in at k be delivered.
func (c *Client) listen(k *socket) error {
	l := &c.listening
	l.mu.Lock()
	defer l.mu.Unlock()
	w := l.watch
	if w == nil {
		var err error
		if w, err = arrival.NewWatch(); err != nil {
			return err
		}
		if err := w.SetDeadline(time.Now().Add(socketLife)); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	if err := w.Add(k.conn); err != nil {
		if l.watch == nil {
			err = errors.Join(err, w.Close())
		}
		return err
	}
	if l.watch == nil {
		l.watch, l.sockets = w, make(map[int]*socket)
		c.readers.Go(func() {
			stop := context.AfterFunc(c.ctx, func() { _ = w.Close() })
			defer stop()
			c.read(w)
		})
	}
	l.sockets[k.conn.Descriptor()] = k
	return nil
}

// read delivers what comes in, until there are no sockets or w is closed.
func (c *Client) read(w *arrival.Watch) {
	for {
		ready, err := w.Next()
		switch {
		case err == nil:
			c.receive(ready)
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			now := time.Now()
			if err = w.SetDeadline(now.Add(socketLife)); err == nil && c.sweep(now) {
				return
			}
		}
		if err != nil {
			c.failAll(err)
			return
		}
	}
}

// sweep ends the sockets that have had their time. If there are no others it ends reading, and
// returns true.
func (c *Client) sweep(now time.Time) bool {
	l := &c.listening
	l.mu.Lock()
	defer l.mu.Unlock()
	for fd, k := range l.sockets {
		if k.retire(!now.Before(k.until)) {
			delete(l.sockets, fd)
			_ = k.conn.Close()
		}
	}
	if len(l.sockets) > 0 {
		return false
	}
	_ = l.watch.Close()
	l.watch, l.sockets = nil, nil
	return true
}

// failAll ends reading, all sockets, and the questions that are pending at them.
func (c *Client) failAll(err error) {
	l := &c.listening
	l.mu.Lock()
	all := l.sockets
	_ = l.watch.Close()
	l.watch, l.sockets = nil, nil
	l.mu.Unlock()
	for _, k := range all {
		_ = k.conn.Close()
		c.fail(k, err)
	}
}

// at returns the socket with a descriptor, nil for none.
func (l *listening) at(fd int) *socket {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sockets[fd]
}

// end closes k, which has ended.
func (l *listening) end(k *socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sockets, k.conn.Descriptor())
	_ = k.conn.Close()
}

// receive delivers what has come in at the sockets with those descriptors.
func (c *Client) receive(ready []int) {
	in := arrival.NewInbox()
	defer in.Release()
	now := time.Now()
	var out Replies // of the first question's Queries, as all questions are
	for _, fd := range ready {
		k := c.listening.at(fd)
		if k == nil {
			continue
		}
		n, err := k.conn.Receive(in)
		if err != nil {
			c.listening.end(k)
			c.fail(k, err)
			continue
		}
		for i := range n {
			out = c.arrived(k, in, i, now, out)
		}
		if n > 0 && k.retire(false) {
			c.listening.end(k)
		}
	}
	if out != nil {
		out.Flush()
	}
}

// arrived delivers the i-th datagram that k has received, if that is an answer, and returns
// what takes the answers to clients.
func (c *Client) arrived(k *socket, in *arrival.Inbox, i int, now time.Time, out Replies) Replies {
	msg, expected := k.conn.Datagram(in, i)
	var p *pending
	var a answer
	if expected {
		p, a = k.take(k.to, msg, now)
	}
	if p == nil {
		c.Ignored.Add(1)
		return out
	}
	if out == nil && p.inFlight != nil {
		out = p.inFlight.queries.resolver.Replies()
	}
	c.deliver(p, a, out)
	return out
}

// take returns the question that msg answers, which is not pending any more then, and the
// answer. Everything else is ignored (RFC 5452 section 9.1), and nil is returned.
func (k *socket) take(s *Server, msg []byte, now time.Time) (*pending, answer) {
	if len(msg) < wire.HeaderSize {
		return nil, answer{}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	id := binary.BigEndian.Uint16(msg)
	p := k.pending[id]
	if p == nil {
		return nil, answer{}
	}
	msg = wire.ReadAnswer(msg, p.query)
	if msg == nil {
		return nil, answer{}
	}
	possible, doubtful := s.check0x20(msg, p.query, now)
	if !possible {
		return nil, answer{}
	}
	delete(k.pending, id)
	return p, answer{msg: msg, doubtful: doubtful}
}

// deliver gives a, whose message does not outlive the call, to whoever goes on with p.
func (c *Client) deliver(p *pending, a answer, out Replies) {
	f := p.inFlight
	switch {
	case f == nil:
		p.answer <- a.clone()
	case c.patience.claim(&f.place):
		f.queries.answered(f, a, out)
	default:
		c.patience.pass(f, a.clone())
	}
}

// clone returns a copy of a that shares nothing with it.
func (a answer) clone() answer {
	a.msg = append([]byte(nil), a.msg...)
	return a
}

// fail ends the socket and has all pending questions fail.
func (c *Client) fail(k *socket, err error) {
	k.mu.Lock()
	k.closed = true
	all := k.pending
	k.pending = nil
	k.mu.Unlock()
	for _, p := range all {
		c.deliver(p, answer{err: err}, nil)
	}
}

// retire ends the socket, which is still to be closed, if no question is pending and it takes no
// more: it has had all its questions or, as over says, its time. One that has had none is about to
// have its first. It returns whether the socket has ended.
func (k *socket) retire(over bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = k.closed || len(k.pending) == 0 && (over && k.begun > 0 || k.begun == socketQuestions)
	return k.closed
}
