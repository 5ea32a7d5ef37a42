package dnsd

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// Limits of a TCP connection, RFC 7766 section 6.2.3 and 6.2.1.
const (
	tcpIdle      = 10 * time.Second      // for the whole next message to arrive
	tcpWrite     = 10 * time.Second      // for one answer to leave
	tcpPipelined = 32                    // queries that are not yet answered
	tcpBuffer    = 64 << 10              // octets of answers that the kernel keeps for a client
	tcpUnread    = 128 << 10             // likewise, that wait here; beyond it no more is read
	tcpMost      = 4 * tcpUnread         // beyond it the client is given up
	tcpRetry     = 50 * time.Millisecond // of an accept that failed for a moment
)

// serveTCP answers the clients that connect to l until accepting fails, as it
// does when l is closed. It returns that error, after the end of every
// connection.
func (s *Server) serveTCP(ctx context.Context, l *net.TCPListener) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	for {
		c, err := l.AcceptTCP()
		switch {
		case errors.Is(err, net.ErrClosed):
			return err
		case isTransient(err):
			select {
			case <-time.After(tcpRetry):
			case <-ctx.Done():
			}
			continue
		case err != nil:
			return err
		}
		clients.Go(s.admit(ctx, c))
	}
}

// admit returns what serves a connection: nothing, and it is closed, where its client has
// too many.
func (s *Server) admit(ctx context.Context, c *net.TCPConn) (serve func()) {
	slot := new(slot)
	if !s.tcpClients.acquire(slot, remoteAddr(c), func() { _ = c.Close() }) {
		_ = c.Close()
		return func() {}
	}
	return func() {
		defer s.tcpClients.release(slot)
		s.serveConn(ctx, c, slot)
	}
}

// isTransient reports whether accept may do better in a moment: something ran out,
// or the client was gone before it was accepted.
func isTransient(err error) bool {
	return slices.ContainsFunc([]syscall.Errno{
		unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED,
	}, func(errno syscall.Errno) bool { return errors.Is(err, errno) })
}

// remoteAddr returns the address of c's client.
func remoteAddr(c *net.TCPConn) netip.Addr {
	a, _ := c.RemoteAddr().(*net.TCPAddr)
	return a.AddrPort().Addr().Unmap()
}

// conn is one TCP connection. A query has a slot until its answer is written, so
// that there is always room in answers and no goroutine that has one waits for a
// client that does not read.
type conn struct {
	c       *net.TCPConn
	leaving context.Context // ends when no other query is to be read
	slots   chan struct{}
	answers chan []byte   // an empty one: the query is not answered
	unread  atomic.Int64  // octets of answers
	written chan struct{} // a value: it is less
	broken  atomic.Bool   // an answer is not written
	late    bool          // a message is read to its end although the server is left
}

// serveConn answers the queries of one client, each as soon as it can be (RFC
// 7766 section 6.2.1.1), until the client ends or idles, or ctx ends, or the server is left:
// then the connection is the next process's, once all that was read is answered.
func (s *Server) serveConn(ctx context.Context, c *net.TCPConn, slot *slot) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	unread := context.AfterFunc(s.leaving, func() { _ = c.SetReadDeadline(past) })
	defer unread()
	tc := &conn{
		c:       c,
		leaving: s.leaving,
		slots:   make(chan struct{}, tcpPipelined),
		answers: make(chan []byte, tcpPipelined),
		written: make(chan struct{}, 1),
	}
	_ = c.SetWriteBuffer(tcpBuffer) // without it the kernel keeps megabytes
	var writer sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() { tc.write(done) })
	defer func() { _ = c.Close() }()
	defer writer.Wait()
	defer close(done)

	left := errors.Is(s.readQueries(ctx, tc, slot), errLeaving)
	// The client may have closed its side only: what it asked is answered.
	for range tcpPipelined {
		select {
		case tc.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
	if left && !tc.broken.Load() {
		s.parted.add(c)
	}
}

// readQueries reads queries until there are no more, and returns why.
func (s *Server) readQueries(ctx context.Context, tc *conn, slot *slot) error {
	raw := make([]byte, wire.MaxQuery)
	q := new(wire.Query)
	for {
		if !tc.acquire(ctx) {
			return ctx.Err()
		}
		n, err := tc.read(raw)
		if err != nil {
			<-tc.slots
			return err
		}
		s.tcpClients.use(slot)
		now := s.now()
		reply, forward := s.respond(q, raw[:n], nil, dns.MaxMsgSize, now)
		if forward == nil {
			tc.answer(reply)
			s.counters.atOnce.Add(s.now().Sub(now), min(len(reply), 1))
			continue
		}
		s.forward(ctx, forward, slot.client, nil, sendFunc(func(reply []byte, _ *replies) { tc.answer(bytes.Clone(reply)) }))
	}
}

// acquire takes a slot, once the client reads what it is sent. It returns false when
// ctx ends before.
func (tc *conn) acquire(ctx context.Context) bool {
	for tc.unread.Load() > tcpUnread {
		select {
		case <-tc.written:
		case <-ctx.Done():
			return false
		}
	}
	select {
	case tc.slots <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer has b sent. A client that asks for much and does not read is given up.
func (tc *conn) answer(b []byte) {
	if tc.unread.Add(int64(len(b))) > tcpMost {
		_ = tc.c.Close()
	}
	tc.answers <- b
}

// read reads one message into raw and returns its length; what does not fit is
// read and dropped. errLeaving says that nothing of a message was read.
func (tc *conn) read(raw []byte) (int, error) {
	if err := tc.c.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return 0, err
	}
	if tc.leaving.Err() != nil {
		return 0, errLeaving
	}
	var prefix [2]byte
	rest := begun{tc}
	n, err := tc.c.Read(prefix[:])
	switch {
	case err != nil && tc.leaving.Err() != nil:
		return 0, errLeaving
	case err != nil:
		return 0, err
	}
	if _, err := io.ReadFull(rest, prefix[n:]); err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint16(prefix[:]))
	n, err = io.ReadFull(rest, raw[:min(length, len(raw))])
	if err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, rest, int64(length-n))
	return n, err
}

// errLeaving says that the next process reads what comes on a connection.
var errLeaving = errors.New("the server is left")

// begun reads the rest of a message, which has the time that it would have otherwise when
// the server is left meanwhile: the next process could make nothing of it.
type begun struct{ *conn }

func (r begun) Read(b []byte) (int, error) {
	n, err := r.c.Read(b)
	if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || r.leaving.Err() == nil || r.late {
		return n, err
	}
	r.late = true
	if err := r.c.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return 0, err
	}
	return r.c.Read(b)
}

// write writes answers until done is closed. After the first that can't be
// written it only takes them, and the reader finds the connection closed.
func (tc *conn) write(done <-chan struct{}) {
	for {
		select {
		case b := <-tc.answers:
			if len(b) > 0 && tc.send(b) != nil {
				tc.broken.Store(true)
				_ = tc.c.Close()
			}
			tc.unread.Add(-int64(len(b)))
			select {
			case tc.written <- struct{}{}:
			default: // there is one
			}
			<-tc.slots
		case <-done:
			return
		}
	}
}

// send writes one message, RFC 1035 section 4.2.2, in one segment if it fits
// (RFC 7766 section 8).
func (tc *conn) send(b []byte) error {
	if err := tc.c.SetWriteDeadline(time.Now().Add(tcpWrite)); err != nil {
		return err
	}
	_, err := tc.c.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, len(b)+2), uint16(len(b))), b...))
	return err
}

// past is a deadline that has passed.
var past = time.Unix(1, 0)

// Sockets returns copies of the sockets, for Open in the next process: what is asked once
// nobody reads waits there. The caller closes them.
func (s *Server) Sockets() ([]*os.File, error) {
	var all []filer
	for _, c := range s.udp {
		all = append(all, c)
	}
	for _, l := range s.tcp {
		all = append(all, l)
	}
	return copies(all)
}

// Leave stops reading and returns copies of the sockets and of the TCP connections that
// are open, for Open in the next process: what is asked from then on waits there. It
// returns once every client who waits for an answer has it, or when ctx ends; a
// connection whose client has not got all answers by then is not left. The caller closes
// the copies, and ends Run soon: nobody answers meanwhile.
func (s *Server) Leave(ctx context.Context) ([]*os.File, error) {
	s.leave()
	var errs []error
	for _, c := range s.udp {
		errs = append(errs, c.SetReadDeadline(past))
	}
	for _, l := range s.tcp {
		errs = append(errs, l.SetDeadline(past))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("stopping to read: %w", err)
	}
	s.readers.Wait()
	s.forwarder.queries.Drain(ctx)
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.acceptors.Wait()
		s.gating.opening.Wait() // nobody asks any more
	}()
	select {
	case <-served:
	case <-ctx.Done():
	}
	files, err := s.Sockets()
	return append(s.parted.take(), files...), err
}

// parted are copies of the TCP connections that a server leaves. Its methods are safe for
// concurrent use.
type parted struct {
	mu    sync.Mutex
	files []*os.File
	taken bool
}

// add copies a connection, unless it comes too late.
func (p *parted) add(c *net.TCPConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken {
		return
	}
	if f, err := c.File(); err == nil {
		p.files = append(p.files, f)
	}
}

// take returns the copies, which are the caller's, once.
func (p *parted) take() []*os.File {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken = true
	files := p.files
	p.files = nil
	return files
}

// filer is a socket of package net.
type filer interface{ File() (*os.File, error) }

// copies returns other descriptors of sockets.
func copies(all []filer) (files []*os.File, err error) {
	var errs []error
	for _, c := range all {
		f, err := c.File()
		errs = append(errs, err)
		if err == nil {
			files = append(files, f)
		}
	}
	if err := errors.Join(errs...); err != nil {
		for _, f := range files {
			_ = f.Close()
		}
		return nil, fmt.Errorf("copying the sockets of dns: %w", err)
	}
	return files, nil
}
