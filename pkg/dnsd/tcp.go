package dnsd

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
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
		client := remoteAddr(c)
		slot := s.tcpClients.acquire(client, func() { _ = c.Close() })
		if slot == nil {
			_ = c.Close()
			continue
		}
		clients.Go(func() {
			defer s.tcpClients.release(slot)
			s.serveConn(ctx, c, slot)
		})
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
	slots   chan struct{}
	answers chan []byte   // an empty one: the query is not answered
	unread  atomic.Int64  // octets of answers
	written chan struct{} // a value: it is less
}

// serveConn answers the queries of one client, each as soon as it can be (RFC
// 7766 section 6.2.1.1), until the client ends or idles, or ctx ends.
func (s *Server) serveConn(ctx context.Context, c *net.TCPConn, slot *slot) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	tc := &conn{
		c:       c,
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

	s.readQueries(ctx, tc, slot)
	// The client may have closed its side only: what it asked is answered.
	for range tcpPipelined {
		select {
		case tc.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// readQueries reads queries until there are no more.
func (s *Server) readQueries(ctx context.Context, tc *conn, slot *slot) {
	raw := make([]byte, wire.MaxQuery)
	q := new(wire.Query)
	for {
		if !tc.acquire(ctx) {
			return
		}
		n, err := tc.read(raw)
		if err != nil {
			<-tc.slots
			return
		}
		s.tcpClients.use(slot)
		now := s.now()
		reply, forward := s.respond(q, raw[:n], nil, dns.MaxMsgSize, now)
		if forward == nil {
			tc.answer(reply)
			s.counters.atOnce.Add(s.now().Sub(now), min(len(reply), 1))
			continue
		}
		s.forward(ctx, forward, slot.client, tc.answer)
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
// read and dropped.
func (tc *conn) read(raw []byte) (int, error) {
	if err := tc.c.SetReadDeadline(time.Now().Add(tcpIdle)); err != nil {
		return 0, err
	}
	var prefix [2]byte
	if _, err := io.ReadFull(tc.c, prefix[:]); err != nil {
		return 0, err
	}
	length := int(binary.BigEndian.Uint16(prefix[:]))
	n, err := io.ReadFull(tc.c, raw[:min(length, len(raw))])
	if err != nil {
		return 0, err
	}
	_, err = io.CopyN(io.Discard, tc.c, int64(length-n))
	return n, err
}

// write writes answers until done is closed. After the first that can't be
// written it only takes them, and the reader finds the connection closed.
func (tc *conn) write(done <-chan struct{}) {
	for {
		select {
		case b := <-tc.answers:
			if len(b) > 0 && tc.send(b) != nil {
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
