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

	"golang.org/x/sys/unix"
)

// How many clients there may be. One user's can't keep out those of another, and
// nobody's can keep out root's.
const (
	maxClients    = 1000
	maxStrangers  = 800 // that are not root's
	maxPerUser    = 200 // of one user who is not root
	maxPending    = 50  // of these, that have not authenticated yet
	acceptBackoff = 100 * time.Millisecond
)

// Config is what a Server works with. Backend and Logger must be set.
type Config struct {
	Backend Backend
	// Authorize is asked of who is not root and wants more than to read; nil lets
	// everybody pass.
	Authorize Authorize
	Logger    *slog.Logger
}

// Server answers libvirt's remote protocol.
type Server struct {
	cfg      Config
	patience patience
	procs    map[int32]*proc
	history  history

	mu      sync.Mutex
	clients map[*client]bool // whether it has authenticated
}

// NewServer makes a server that has no sockets yet: Serve follows.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, patience: defaultPatience(), procs: procs(), clients: make(map[*client]bool)}
}

// Serve answers on the sockets until ctx ends, and has then closed them. It must
// be called once, when the backend knows its networks.
func (s *Server) Serve(ctx context.Context, sockets []Socket) error {
	s.history.learn(s.cfg.Backend.Networks())
	cancel := s.cfg.Backend.Subscribe(s.onEvent)
	defer cancel()
	var running sync.WaitGroup
	for _, socket := range sockets {
		running.Go(func() { s.accept(ctx, socket, &running) })
	}
	<-ctx.Done()
	var errs []error
	for _, socket := range sockets {
		errs = append(errs, socket.Close())
	}
	running.Wait()
	return errors.Join(errs...)
}

// accept takes clients until the socket is closed.
func (s *Server) accept(ctx context.Context, socket Socket, running *sync.WaitGroup) {
	for {
		conn, err := socket.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			s.cfg.Logger.Warn("taking a client of libvirt's protocol", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptBackoff):
			}
			continue
		}
		c, err := s.admit(conn, socket.ReadOnly)
		if err != nil {
			s.cfg.Logger.Warn("turned away a client of libvirt's protocol", "error", err)
			_ = conn.Close()
			continue
		}
		running.Go(func() {
			defer s.forget(c)
			c.serve(ctx)
		})
	}
}

// admit makes a client of a connection, unless there are too many.
func (s *Server) admit(conn *net.UnixConn, readOnly bool) (*client, error) {
	who, err := peerOf(conn)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.clients) >= maxClients {
		return nil, fmt.Errorf("there are %d already", len(s.clients))
	}
	if who.uid != 0 {
		strangers, own, pending := s.countClients(who.uid)
		if strangers >= maxStrangers || own >= maxPerUser || pending >= maxPending {
			return nil, fmt.Errorf("user %d has %d already, %d of them not authenticated, and users but root have %d", who.uid, own, pending, strangers)
		}
	}
	c := newClient(s, conn, who, readOnly)
	s.clients[c] = false
	return c, nil
}

// countClients counts those of all users but root, those of one, and of these
// the ones that have not authenticated. The caller holds s.mu.
func (s *Server) countClients(uid uint32) (strangers, own, pending int) {
	for c, authed := range s.clients {
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

// peerOf asks the kernel who has connected.
func peerOf(conn *net.UnixConn) (peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return peer{}, fmt.Errorf("asking who has connected: %w", err)
	}
	return peer{uid: cred.Uid, pid: uint32(cred.Pid)}, nil
}

// settled records that a client has authenticated.
func (s *Server) settled(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[c] = true
}

func (s *Server) forget(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, c)
}

// everybody lists the clients.
func (s *Server) everybody() []*client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.clients))
}
