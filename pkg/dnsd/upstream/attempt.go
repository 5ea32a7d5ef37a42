package upstream

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// attempt is a question to one server, with an id and a case of letters of its
// own.
type attempt struct {
	server *Server
	query  []byte
	begun  time.Time
	socket *socket // nil: it could not be asked
	*pending
	answer // zero: nothing yet
}

// begin asks s over UDP for the first time.
func (c *Client) begin(s *Server, query []byte) *attempt {
	t := &attempt{server: s, query: append([]byte(nil), query...), begun: time.Now()}
	var random [wire.MaxWireName/8 + 1]byte
	if _, t.err = rand.Read(random[:]); t.err != nil {
		return t
	}
	wire.MixCase(t.query, random[:])
	if t.socket, t.pending, t.err = c.register(s, t.query); t.err == nil {
		t.err = t.send()
	}
	return t
}

// send sends the question.
func (t *attempt) send() error {
	t.server.queries.Add(1)
	_, err := t.socket.conn.Write(t.query)
	return err
}

// end gives up waiting over UDP. It may be called more than once.
func (t *attempt) end() {
	if t.socket != nil {
		t.socket.unregister(t.pending)
	}
}

// isOver reports whether there is an answer, or there will be none.
func (t *attempt) isOver() bool { return t.msg != nil || t.err != nil }

// isAnswered reports whether there is an answer that can be given to clients.
func (t *attempt) isAnswered() bool {
	return t.msg != nil && !t.doubtful && !wire.IsTruncated(t.msg) && !wire.IsFailure(t.msg)
}

// wait waits for an answer, for as long as d and ctx last.
func (t *attempt) wait(ctx context.Context, d time.Duration) {
	if t.isOver() {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case t.answer = <-t.pending.answer:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ask goes on with t until the server answers or ctx ends, over UDP and, if the
// answer is truncated or its 0x20 check in doubt, over TCP.
func (c *Client) ask(ctx context.Context, t *attempt) ([]byte, error) {
	c.retransmit(ctx, t)
	if t.err != nil || !t.doubtful && !wire.IsTruncated(t.msg) {
		return t.msg, t.err
	}
	whole, err := c.askTCP(ctx, t.server, t.query)
	if err != nil {
		return t.msg, nil //nolint:nilerr // the client learns that the answer is truncated
	}
	if t.doubtful {
		t.server.learn0x20(whole, t.query)
	}
	return whole, nil
}

// retransmit sends the question again after longer and longer waits, until t is
// over.
func (c *Client) retransmit(ctx context.Context, t *attempt) {
	defer t.end()
	wait := c.Timing.Retransmit - time.Since(t.begun)
	for gap := c.Timing.Retransmit; !t.isOver(); gap *= 2 {
		if t.wait(ctx, wait); t.isOver() {
			return
		}
		if t.err = ctx.Err(); t.err == nil {
			t.err = t.send()
		}
		wait = 2 * gap
	}
}

// errNoAnswer says that a server sent something else over TCP.
var errNoAnswer = errors.New("the message does not answer the question")

// askTCP asks over TCP.
func (c *Client) askTCP(ctx context.Context, s *Server, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timing.TCP)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.addr.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.queries.Add(1)
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var prefix [2]byte
	if _, err := io.ReadFull(conn, prefix[:]); err != nil {
		return nil, err
	}
	msg := make([]byte, binary.BigEndian.Uint16(prefix[:]))
	if _, err := io.ReadFull(conn, msg); err != nil {
		return nil, err
	}
	if msg = wire.ReadAnswer(msg, query); msg == nil {
		c.ignored.Add(1)
		return nil, errNoAnswer
	}
	return msg, nil
}
