package libvirtrpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// What a client may keep us busy with.
const (
	maxCalls      = 5 // in flight: virNetServer's max_client_requests
	callLimit     = 2 * time.Minute
	maxUnanswered = 5        // pings: keepalive_count
	bigCall       = 64 << 10 // bytes of arguments that make a call work, whatever it is
)

// patience is how long we wait for a client.
type patience struct {
	auth  time.Duration // until it is authenticated
	write time.Duration // for one frame to be taken
	ping  time.Duration // between pings: keepalive_interval
}

func defaultPatience() patience {
	return patience{auth: 30 * time.Second, write: 30 * time.Second, ping: 5 * time.Second}
}

// client is one connection.
type client struct {
	*session
	procs    map[int32]*proc
	patience patience
	running  sync.WaitGroup // the connection's own goroutines
	calls    sync.WaitGroup
	slots    chan struct{} // one for each call in flight

	heard   atomic.Int64 // frames read; pings are sent while it stands still
	pinging sync.Once
	gone    chan struct{}   // closed when the connection has ended
	waiting context.Context // of calls whose turn it is not: ends with the connection
}

// newClient makes the connection of a session, which may call those procedures.
func newClient(s *session, procs map[int32]*proc, p patience) *client {
	c := &client{session: s, procs: procs, patience: p, slots: make(chan struct{}, maxCalls), gone: make(chan struct{}), waiting: context.Background()}
	s.keepalive = func() { c.pinging.Do(func() { c.running.Go(c.ping) }) }
	return c
}

// serve answers the client until it hangs up, misbehaves, or ctx ends. Calls that
// are under way then are completed.
func (c *client) serve(ctx context.Context) {
	hangUp := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer hangUp()
	var stop context.CancelFunc
	c.waiting, stop = context.WithCancel(ctx)
	c.running.Go(c.write)
	err := c.read(ctx)
	stop()
	if !errors.Is(err, errDone) {
		_ = c.conn.Close()
	}
	if !errors.Is(err, errDone) && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.log.Info("cut off a client of libvirt's protocol", "error", err)
	}
	close(c.gone)
	c.out.close()
	c.running.Wait()
	c.calls.Wait()
	c.out.drop()
}

// read takes messages until one can't be had. Calls run beside it, at most
// maxCalls of them: the next message is not read before one is done.
func (c *client) read(ctx context.Context) error {
	if err := c.conn.SetReadDeadline(time.Now().Add(c.patience.auth)); err != nil {
		return err
	}
	in := bufio.NewReader(c.conn)
	for {
		m, err := readMessage(in, c.frameLimit())
		if err != nil {
			return err
		}
		c.heard.Add(1)
		if err := c.take(ctx, m); err != nil {
			return err
		}
	}
}

// frameLimit is how long a message of the client may be.
func (c *client) frameLimit() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.authed && !c.readOnly {
		return maxFrame
	}
	return maxSmallFrame
}

// take deals with one message. An error ends the connection.
func (c *client) take(ctx context.Context, m message) error {
	switch {
	case m.program == programKeepalive && m.version == protocolVersion:
		if m.proc == keepalivePing && !c.out.offer(frame(header{
			program: programKeepalive, version: protocolVersion, proc: keepalivePong, kind: typeMessage,
		}, nil)) {
			return errors.New("it reads no answers to its pings")
		}
		return nil
	case m.kind == typeCallWithFDs:
		// Where the descriptors stand in the stream is known only to who
		// receives them.
		return errors.New("a call with file descriptors, which no network procedure takes")
	case m.kind != typeCall:
		return errors.New("a message that is not a call")
	case m.program != programRemote || m.version != protocolVersion:
		c.refuse(m.header, rpcf(codeRPC, "Cannot find program %d version %d", m.program, m.version))
		return nil
	}
	p, known := c.procs[m.proc]
	if !known {
		c.refuse(m.header, rpcf(codeRPC, "unknown procedure: %d", m.proc))
		return nil
	}
	if err := c.user.Pace(c.waiting); err != nil {
		return err
	}
	if p.inOrder {
		return c.answer(ctx, p, m)
	}
	done, err := c.user.Admit(len(m.payload))
	if err != nil {
		c.refuse(m.header, rpcf(codeRPC, "too many calls at a time: %v", err))
		return nil
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	c.calls.Go(func() {
		defer func() { <-c.slots }()
		defer done()
		_ = c.answer(ctx, p, m)
	})
	return nil
}

// refuse answers a call with an error.
func (c *client) refuse(h header, err error) {
	c.out.put(frame(h.answer(statusError), asError(err).encode))
}

// answer runs a call and sends its results or its error. It returns errDone when
// that was the connection's last.
func (c *client) answer(ctx context.Context, p *proc, m message) error {
	var results encoder
	err := c.invoke(ctx, p, m.payload, &results)
	if err != nil && !errors.Is(err, errDone) {
		c.log.Debug("call refused", "procedure", p.name, "error", err)
		c.refuse(m.header, err)
		return nil
	}
	c.out.put(frame(m.answer(statusOK), func(e *encoder) { e.buf = append(e.buf, results.buf...) }))
	return err
}

// invoke checks that the client may make the call now, and makes it. A panic
// ends the call, not the daemon.
func (c *client) invoke(ctx context.Context, p *proc, payload []byte, results *encoder) (err error) {
	defer func() {
		if r := recover(); r != nil {
			c.log.Error("a call panicked", "procedure", p.name, "panic", r, "stack", string(debug.Stack()))
			err = failf(codeInternal, "%s failed in an unforeseen way: see vnetd's log", p.name)
		}
	}()
	if err := p.permits(c.session); err != nil {
		return err
	}
	if p.needs == needsOpen || len(payload) > bigCall {
		done, err := c.user.Work(c.waiting)
		if err != nil {
			return err
		}
		defer done()
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return p.call(ctx, c.session, payload, results)
}

// write sends what is queued until the queue is closed and empty. A client that
// does not read is cut off.
func (c *client) write() {
	defer func() { _ = c.conn.Close() }()
	for frames := c.out.next(); frames != nil; frames = c.out.next() {
		for _, f := range frames {
			err := c.conn.SetWriteDeadline(time.Now().Add(c.patience.write))
			if err == nil {
				_, err = c.conn.Write(f)
			}
			if err != nil {
				c.out.close()
				return
			}
			c.out.sent(len(f))
		}
	}
}

// ping pings the client whenever it has been silent, and cuts it off when it answers
// none.
func (c *client) ping() {
	tick := time.NewTicker(c.patience.ping)
	defer tick.Stop()
	heard, unanswered := c.heard.Load(), 0
	for {
		select {
		case <-c.gone:
			return
		case <-tick.C:
		}
		if now := c.heard.Load(); now != heard {
			heard, unanswered = now, 0
			continue
		}
		ping := header{program: programKeepalive, version: protocolVersion, proc: keepalivePing, kind: typeMessage}
		if unanswered == maxUnanswered || !c.out.offer(frame(ping, nil)) {
			c.log.Info("cut off a client of libvirt's protocol that answers no pings")
			_ = c.conn.Close()
			return
		}
		unanswered++
	}
}
