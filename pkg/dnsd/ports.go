package dnsd

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// A question goes to an upstream from one of several sockets, picked by chance,
// each with a random port of the kernel's choice. A socket is for few questions
// and not for long, so that nobody learns from one question the port of the next
// (RFC 5452 section 9.2), and a busy server opens one for many questions.
const (
	portSlots     = 8
	portQuestions = 64
	portLife      = time.Second
)

// port is a socket that is connected to one upstream, and so hears only that.
type port struct {
	conn  net.Conn
	until time.Time // no questions from then on

	mu      sync.Mutex
	waiting map[uint16]*asking // by id
	begun   int
	closed  bool
}

// asking is a question on its way.
type asking struct {
	asked  []byte     // the query; does not change while it waits
	answer chan heard // has room for all that will come: once
}

// heard is what came of a question: the answer, or why there will be none.
type heard struct {
	msg      []byte
	doubtful bool // see spoke
	err      error
}

// ports are the open sockets of one network.
type ports struct {
	mu     sync.Mutex
	open   map[*port]bool
	closed bool
}

// errPortsClosed is what is in the way of a question when the server ends.
var errPortsClosed = errors.New("the server ends")

// put has a question asked of u: it sets query's id, and the answer will be
// heard until end.
func (f *forwarder) put(u *upstream, query []byte) (*port, *asking, error) {
	a := &asking{asked: query, answer: make(chan heard, 1)}
	var random [1]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	slot := &u.ports[random[0]%portSlots]
	if *slot != nil {
		if ok, err := (*slot).take(a); ok || err != nil {
			return *slot, a, err
		}
	}
	p, err := f.openPort(u)
	if err != nil {
		return nil, nil, err
	}
	*slot = p
	_, err = p.take(a)
	return p, a, err
}

// openPort opens a socket and hears it.
func (f *forwarder) openPort(u *upstream) (*port, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(u.addr))
	if err != nil {
		return nil, err
	}
	p := &port{conn: conn, until: time.Now().Add(portLife), waiting: make(map[uint16]*asking)}
	f.ports.mu.Lock()
	defer f.ports.mu.Unlock()
	if f.ports.closed {
		return nil, errors.Join(errPortsClosed, conn.Close())
	}
	f.ports.open[p] = true
	f.running.Go(func() { f.hear(u, p) })
	return p, nil
}

// take gives a question a random id; false: the port is not for it.
func (p *port) take(a *asking) (ok bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.begun == portQuestions || time.Now().After(p.until) {
		return false, nil
	}
	id := a.asked[:2]
	for {
		if _, err := rand.Read(id); err != nil {
			return false, err
		}
		if p.waiting[binary.BigEndian.Uint16(id)] == nil {
			break
		}
	}
	p.waiting[binary.BigEndian.Uint16(id)] = a
	p.begun++
	return true, nil
}

// end stops hearing for a.
func (p *port) end(a *asking) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if id := binary.BigEndian.Uint16(a.asked); p.waiting[id] == a {
		delete(p.waiting, id)
	}
}

// hear passes on what comes in, until the port has had its time and nobody waits
// any more, or it fails.
func (f *forwarder) hear(u *upstream, p *port) {
	defer f.closePort(p)
	buf := make([]byte, maxQuery)
	for {
		if err := p.conn.SetReadDeadline(time.Now().Add(portLife)); err != nil {
			p.fail(err)
			return
		}
		for {
			n, err := p.conn.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				p.fail(err)
				return
			}
			if !p.deliver(u, buf[:n]) {
				f.counters.ignored.Add(1)
			}
		}
		if p.retire() {
			return
		}
	}
}

// deliver brings msg to the question that it answers, which then hears no more.
// Everything else is ignored (RFC 5452 section 9.1), and false is returned.
func (p *port) deliver(u *upstream, msg []byte) bool {
	if len(msg) < headerSize {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := binary.BigEndian.Uint16(msg)
	a := p.waiting[id]
	if a == nil {
		return false
	}
	answer := readAnswer(msg, a.asked)
	if answer == nil {
		return false
	}
	possible, doubtful := u.spoke(answer, a.asked)
	if possible {
		delete(p.waiting, id)
		a.answer <- heard{msg: append([]byte(nil), answer...), doubtful: doubtful}
	}
	return possible
}

// fail tells all who wait, and is the end of the port.
func (p *port) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, a := range p.waiting {
		a.answer <- heard{err: err}
	}
	clear(p.waiting)
}

// retire is the end of the port if nobody waits.
func (p *port) retire() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = p.closed || len(p.waiting) == 0
	return p.closed
}

// closePort closes a socket.
func (f *forwarder) closePort(p *port) {
	f.ports.mu.Lock()
	defer f.ports.mu.Unlock()
	delete(f.ports.open, p)
	_ = p.conn.Close()
}

// close ends all ports, and no other is opened.
func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for one := range p.open {
		_ = one.conn.Close() // its reader finds out
	}
}
