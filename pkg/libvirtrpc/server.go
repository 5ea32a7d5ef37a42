package libvirtrpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/quota"
	"github.com/vnetd/vnetd/pkg/network"
)

// acceptBackoff is how long is waited after a client could not be taken.
const acceptBackoff = 100 * time.Millisecond

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
	sessions sessions
	users    *quota.Users
}

// NewServer makes a server that has no sockets yet: Serve follows.
func NewServer(cfg Config) *Server {
	return &Server{cfg: cfg, patience: defaultPatience(), procs: procs(), sessions: sessions{all: make(map[*session]bool)}, users: quota.New()}
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
			defer s.sessions.forget(c.session)
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
	c := s.session(conn, who, readOnly)
	if err := s.sessions.admit(c); err != nil {
		return nil, err
	}
	return newClient(c, s.procs, s.patience), nil
}

// session is what procedures know of a new client.
func (s *Server) session(conn net.Conn, who peer, readOnly bool) *session {
	user := s.users.Of(who.uid)
	return &session{
		backend: s.cfg.Backend, authorize: s.cfg.Authorize, all: &s.sessions, conn: conn, peer: who, readOnly: readOnly,
		log: s.cfg.Logger.With("client_uid", who.uid, "client_pid", who.pid),
		out: newQueue(user), user: user, watches: make(map[int32]*watch), readsOnly: readOnly,
	}
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

// onEvent tells clients what has happened.
func (s *Server) onEvent(e network.Event) {
	about := refTo(e.Network)
	for _, what := range s.history.changes(e) {
		for _, c := range s.sessions.everybody() {
			c.tell(eventLifecycle, procEventLifecycle, about, func(e *encoder) {
				e.int32(int32(what))
				e.int32(0) // no detail
			})
		}
	}
}
