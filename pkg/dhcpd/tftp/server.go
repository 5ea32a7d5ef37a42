// Package tftp lets guests read boot files (RFC 1350) on one link.
package tftp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

const port = 69

// How many transfers may run, and the largest block.
const (
	maxTransfers     = 256
	maxTransfersEach = 8
	maxBlock         = 9000
)

// Config is what a Server shall do.
type Config struct {
	// Network is the network's name, for logs.
	Network string
	// Interface is the bridge. The socket is bound to it.
	Interface string
	// Addr is our address on the bridge.
	Addr netip.Addr
	// Root is the directory with the files, an absolute path. Nothing outside of it
	// is served, not by symbolic links either.
	Root string
	// Logger receives the log. Nil: slog.Default.
	Logger *slog.Logger
}

// Server lets guests read files (RFC 1350), with block size, transfer size,
// timeout and window negotiated (RFC 2348, RFC 2349, RFC 7440). It writes none.
// All transfers use its one port, so a firewall has to know no other. Its methods
// may be called concurrently, except where they say otherwise.
type Server struct {
	log   *iface.Log
	conn  *net.UDPConn
	root  *os.Root
	path  string // of root
	block int    // the largest that the link carries
	close func() error
	count counters

	transfers sync.WaitGroup

	mu      sync.Mutex // guards all below
	running map[netip.AddrPort]*transfer
	each    map[netip.Addr]int // transfers by guest
}

// Stats are counters since Open.
type Stats struct {
	// Started counts transfers that began, Done those of them that ended well.
	Started, Done uint64
	// Refused counts requests answered with an error, Limited those dropped because
	// too many transfers ran.
	Refused, Limited uint64
}

type counters struct{ started, done, refused, limited atomic.Uint64 }

// Open opens the directory and binds the socket, in the network namespace of
// the calling thread. The caller must call Run or Close. Root must exist and be
// readable.
func Open(cfg Config) (*Server, error) {
	if !cfg.Addr.IsValid() || cfg.Interface == "" {
		return nil, fmt.Errorf("checking TFTP settings of network %q: address or interface is missing", cfg.Network)
	}
	root, err := os.OpenRoot(cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("opening TFTP directory: %w", err)
	}
	ifi, err := iface.ByName(cfg.Interface)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), cfg.Interface) }), err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp", netip.AddrPortFrom(cfg.Addr, port).String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("binding UDP port %d of %v: %w", port, cfg.Addr, err), root.Close())
	}
	return &Server{
		log:     iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface),
		conn:    conn.(*net.UDPConn),
		root:    root,
		path:    cfg.Root,
		block:   min(max(ifi.MTU-blockOverhead(cfg.Addr), defaultBlock), maxBlock),
		close:   iface.Once(func() error { return errors.Join(conn.Close(), root.Close()) }),
		running: make(map[netip.AddrPort]*transfer),
		each:    make(map[netip.Addr]int),
	}, nil
}

// blockOverhead returns how many bytes stand around a block in a packet.
func blockOverhead(a netip.Addr) int {
	if a.Is4() {
		return 20 + 8 + header // IPv4, UDP
	}
	return 40 + 8 + header // IPv6, UDP
}

// Close gives up a server that does not run. After Run, or a second time, it does
// nothing.
func (s *Server) Close() error { return s.close() }

// Run serves until ctx ends, which is no error, or the socket fails. Transfers
// that run are cut off. It returns when all that it started has ended and the
// socket is closed. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err := s.readLoop(ctx)
	cancel()
	s.transfers.Wait()
	closeErr := s.close()
	if err != nil {
		return fmt.Errorf("serving TFTP: %w", errors.Join(err, closeErr))
	}
	return closeErr
}

// readLoop handles one packet after the other until ctx ends or the socket fails.
func (s *Server) readLoop(ctx context.Context) error {
	buf := make([]byte, iface.MaxMessage)
	for {
		n, peer, err := s.conn.ReadFromUDPAddrPort(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		if n >= header && buf[0] == 0 {
			s.handle(ctx, buf[:n], peer)
		}
	}
}

// handle acts on a packet, whose header is complete.
func (s *Server) handle(ctx context.Context, b []byte, peer netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.running[peer]
	switch {
	case t != nil:
		t.handle(b)
	case b[1] == opRead, b[1] == opWrite:
		s.begin(ctx, b, peer)
	}
}

// begin starts the transfer that a guest asks for. s.mu must be locked.
func (s *Server) begin(ctx context.Context, b []byte, peer netip.AddrPort) {
	guest := peer.Addr()
	if len(s.running) >= maxTransfers || s.each[guest] >= maxTransfersEach {
		s.count.limited.Add(1)
		return
	}
	r, err := parse(b, s.path)
	var f *os.File
	if err == nil {
		f, err = openFile(s.root, r.path)
	}
	if err != nil {
		s.count.refused.Add(1)
		s.log.Debug("refusing a TFTP request", "ip", guest, "name", r.path, "error", err)
		_, _ = s.conn.WriteToUDPAddrPort(errorPacket(err), peer)
		return
	}
	t := newTransfer(r, f, s.block)
	t.send = func(b []byte) error {
		_, err := s.conn.WriteToUDPAddrPort(b, peer)
		return err
	}
	s.count.started.Add(1)
	s.running[peer] = t
	s.each[guest]++
	s.transfers.Go(func() { s.transfer(ctx, t, peer) })
}

// transfer runs t to its end.
func (s *Server) transfer(ctx context.Context, t *transfer, peer netip.AddrPort) {
	err := t.run(ctx)
	if err == nil {
		s.count.done.Add(1)
	}
	s.log.Debug("TFTP transfer ended", "ip", peer.Addr(), "name", t.file.Name(), "error", errors.Join(err, t.file.Close()))
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, peer)
	if s.each[peer.Addr()]--; s.each[peer.Addr()] == 0 {
		delete(s.each, peer.Addr())
	}
}

// openFile opens a regular file under root.
func openFile(root *os.Root, path string) (*os.File, error) {
	// Without O_NONBLOCK a named pipe would hold the server up.
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%w: not a regular file", os.ErrPermission)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Stats returns the counters. It may be called at any time.
func (s *Server) Stats() Stats {
	c := &s.count
	return Stats{
		Started: c.started.Load(), Done: c.done.Load(),
		Refused: c.refused.Load(), Limited: c.limited.Load(),
	}
}
