package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/quota"
)

// peer is who is at the other end, by the kernel's word (SO_PEERCRED).
type peer struct {
	uid, pid uint32
}

// Subject is a process that asks for the right to manage networks.
type Subject struct {
	UID, PID  uint32
	StartTime uint64 // of the process, in clock ticks since boot: tells it from a later one with its PID
}

// Authorize lets a subject pass or returns an error; an *Error reaches the
// client as it is.
type Authorize func(ctx context.Context, who Subject) error

// watch is an event that a client has registered for.
type watch struct {
	event   int32
	network *uuid // nil: any
}

func (w *watch) equal(o *watch) bool {
	if w.event != o.event || (w.network == nil) != (o.network == nil) {
		return false
	}
	return w.network == nil || *w.network == *o.network
}

// errDone ends a connection that the client has closed by a call.
var errDone = errors.New("closed by the client")

// session is what procedures know of the client that calls them.
type session struct {
	backend   Backend
	authorize Authorize // nil lets everybody pass
	all       *sessions // it is one of these
	conn      net.Conn
	peer      peer
	readOnly  bool // of the socket
	log       *slog.Logger
	out       *queue
	user      *quota.User
	keepalive func() // has the client pinged whenever it is silent

	mu        sync.Mutex
	authed    bool // may do more than ask how to authenticate
	open      bool
	readsOnly bool             // asked for at open, or by the socket
	watches   map[int32]*watch // registered events, by callback ID
	lastWatch int32
}

// authenticated lets the client do what its socket allows.
func (c *session) authenticated() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.authed {
		c.authed = true
		c.all.settled(c)
		_ = c.conn.SetReadDeadline(time.Time{})
	}
}

// tell sends an event to a client that has registered for it. One that reads no
// events is cut off.
func (c *session) tell(event, proc int32, about ref, write func(*encoder)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, w := range c.watches {
		if w.event != event || w.network != nil && *w.network != about.uuid {
			continue
		}
		h := header{program: programRemote, version: protocolVersion, proc: proc, kind: typeMessage}
		taken := c.out.offer(frame(h, func(e *encoder) {
			e.int32(id)
			e.ref(about)
			write(e)
		}))
		if !taken {
			c.log.Info("cut off a client of libvirt's protocol that reads no events")
			_ = c.conn.Close()
			return
		}
	}
}

// How many clients there may be. One user's can't keep out those of another, and
// nobody's can keep out root's.
const (
	maxClients   = 1000
	maxStrangers = 800 // that are not root's
	maxPerUser   = 200 // of one user who is not root
	maxPending   = 50  // of these, that have not authenticated yet
)

// sessions are those of all clients.
type sessions struct {
	mu  sync.Mutex
	all map[*session]bool // whether it has authenticated
}

// admit takes a new one, unless there are too many.
func (s *sessions) admit(c *session) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) >= maxClients {
		return fmt.Errorf("there are %d already", len(s.all))
	}
	if uid := c.peer.uid; uid != 0 {
		strangers, own, pending := s.count(uid)
		if strangers >= maxStrangers || own >= maxPerUser || pending >= maxPending {
			return fmt.Errorf("user %d has %d already, %d of them not authenticated, and users but root have %d", uid, own, pending, strangers)
		}
	}
	s.all[c] = false
	return nil
}

// count counts those of all users but root, those of one, and of these
// the ones that have not authenticated. The caller holds s.mu.
func (s *sessions) count(uid uint32) (strangers, own, pending int) {
	for c, authed := range s.all {
		if c.peer.uid != 0 {
			strangers++
		}
		if c.peer.uid == uid {
			own++
			if !authed {
				pending++
			}
		}
	}
	return strangers, own, pending
}

// settled records that a client has authenticated.
func (s *sessions) settled(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[c] = true
}

func (s *sessions) forget(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, c)
}

// everybody lists them.
func (s *sessions) everybody() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.all))
}
