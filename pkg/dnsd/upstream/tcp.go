package upstream

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// overTCP asks again over TCP for what t answers, as that is cut or its 0x20 check in doubt.
// Where TCP is known to fail, t's answer is given at once: a client learns that it is cut. Of
// the questions that come while that is not known one finds out for all.
func (c *Client) overTCP(ctx context.Context, t *attempt) ([]byte, error) {
	for {
		if t.doubtful && !wire.IsTruncated(t.msg) && t.server.letters.verdict(time.Now()) == Lost {
			return t.msg, nil // somebody has found out meanwhile
		}
		try, news := t.server.tryTCP(time.Now())
		switch {
		case try:
			return c.whole(ctx, t)
		case news == nil:
			c.probeTCP(t.server, t.query)
			return t.overUDP()
		}
		select {
		case <-news:
		case <-ctx.Done():
			return t.overUDP()
		}
	}
}

// whole returns the whole answer to t, or t's if the server can't be asked over TCP, and
// notes what that says of the server.
func (c *Client) whole(ctx context.Context, t *attempt) ([]byte, error) {
	msg, err := c.askTCP(ctx, t.server, t.query)
	if errors.Is(ctx.Err(), context.Canceled) {
		t.server.leaveTCP()
		return t.overUDP() // we were stopped, and know nothing
	}
	if t.doubtful {
		t.server.learn0x20(msg, t.query, time.Now())
	}
	t.server.noteTCP(err == nil, time.Now())
	if err != nil {
		return t.overUDP()
	}
	return msg, nil
}

// errCase says why an answer is not believed.
var errCase = errors.New("the answer does not repeat the case of letters, and can't be had over TCP")

// overUDP returns the answer to t that came over UDP, unless that may be somebody else's: the
// server is known to keep the case of letters.
func (t *attempt) overUDP() ([]byte, error) {
	if t.doubtful && t.server.letters.verdict(time.Now()) == Kept {
		return nil, errCase
	}
	return t.msg, nil
}

// probeTCP finds out whether s, which could not be asked over TCP, can be by now, if that was
// not tried for a while. It does not wait.
func (c *Client) probeTCP(s *Server, query []byte) {
	if !s.dueTCP(time.Now()) {
		return
	}
	query = append([]byte(nil), query...)
	c.readers.Go(func() {
		_, err := c.askTCP(c.ctx, s, query)
		if c.ctx.Err() == nil {
			s.noteTCP(err == nil, time.Now())
		}
	})
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
	framed, msg := &dns.Conn{Conn: conn}, make([]byte, dns.MaxMsgSize)
	if _, err := framed.Write(query); err != nil {
		return nil, err
	}
	n, err := framed.Read(msg)
	if err != nil {
		return nil, err
	}
	if msg = wire.ReadAnswer(msg[:n], query); msg == nil {
		c.Ignored.Add(1)
		return nil, errNoAnswer
	}
	return msg, nil
}
