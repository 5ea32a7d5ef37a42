// Package tftp lets guests read boot files (RFC 1350) on one link.
package tftp

import (
	"bytes"
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

	"github.com/vnetd/vnetd/internal/handover"
	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

const port = 69

// How many transfers may run, how many of one address at one place, and the largest block.
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
	// Left is what a former process got from Sockets: in place of a new socket, Open
	// uses a copy of the one of these that is bound as it should be, and Run goes on
	// with the transfers of that process. They remain the caller's.
	Left []*os.File
}

// Server lets guests read files (RFC 1350), with block size, transfer size,
// timeout and window negotiated (RFC 2348, RFC 2349, RFC 7440). It writes none.
// All transfers use its one port, so a firewall has to know no other. Its methods
// may be called concurrently, except where they say otherwise.
type Server struct {
	log   *iface.Log
	conn  *net.UDPConn
	raw   syscall.RawConn // of conn
	ifi   *net.Interface
	seen  *iface.Frames // of requests
	ports *iface.Ports
	root  *os.Root
	cfg   Config
	block int // the largest that the link carries
	close func() error
	count counters

	transfers sync.WaitGroup

	mu      sync.Mutex // guards all below
	started uint64     // transfers so far
	running map[netip.AddrPort]*session
	each    map[guest]int // transfers
	at      map[place]int // transfers
	book    *book         // nil: there is none
}

// place is where requests enter the link: a port of the bridge, or a card where the port is
// not known. The zero place is that of all of whom nothing is known.
type place struct {
	port int
	hw   iface.HWAddr
}

// guest is who asks. Its address alone it may have made up.
type guest struct {
	addr netip.Addr
	at   place
}

// session is a transfer that runs.
type session struct {
	*transfer
	peer   netip.AddrPort
	who    guest
	number uint64 // in order of their beginning
	record int    // of the book
	stop   context.CancelFunc
	after  *session      // sends until it is done
	done   chan struct{} // closed when it sends no more

	request []byte
	begun   bool // something is acknowledged; Server.mu guards it
}

// replacedBy reports whether a packet of its guest asks for another transfer in its place: who
// was reset may ask for the next one from the same port. A request may come twice. s.mu must be
// locked.
func (x *session) replacedBy(b []byte) bool {
	return b[1] == opRead && (x.begun || !bytes.Equal(b, x.request))
}

// Stats are counters since Open.
type Stats struct {
	// Started counts transfers that began, Done those of them that ended well.
	Started, Done uint64
	// Refused counts requests answered with an error, Limited those dropped because
	// too many transfers ran, and transfers given up for those of others.
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
	conn, err := bind(&cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("binding UDP port %d of %v: %w", port, cfg.Addr, err), root.Close())
	}
	s := &Server{
		log:     iface.NewLog(cfg.Logger, cfg.Network, cfg.Interface),
		conn:    conn,
		ifi:     ifi,
		root:    root,
		cfg:     cfg,
		block:   min(max(ifi.MTU-blockOverhead(cfg.Addr), defaultBlock), maxBlock),
		running: make(map[netip.AddrPort]*session),
		each:    make(map[guest]int),
		at:      make(map[place]int),
	}
	s.close = iface.Once(s.closeAll)
	if s.book, err = openBook(cfg.Left); err != nil {
		s.log.Warn("transfers of boot files will not outlive this process", "error", err)
	}
	if err := s.watch(ifi, cfg.Addr.Is6()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// bind opens the socket, or makes a copy of the one of cfg.Left.
func bind(cfg *Config) (*net.UDPConn, error) {
	at := netip.AddrPortFrom(cfg.Addr, port)
	if f := (handover.Socket{Type: unix.SOCK_DGRAM, Addr: at, Device: cfg.Interface}).Find(cfg.Left); f != nil {
		conn, err := net.FilePacketConn(f)
		if err != nil {
			return nil, fmt.Errorf("taking over a socket: %w", err)
		}
		return conn.(*net.UDPConn), nil
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		return errors.Join(c.Control(func(fd uintptr) { err = unix.BindToDevice(int(fd), cfg.Interface) }), err)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp", at.String())
	if err != nil {
		return nil, err
	}
	return conn.(*net.UDPConn), nil
}

// Sockets returns copies of the socket and of the book of transfers, for Open in the next
// process: what comes in after Run has ended waits there. The caller closes them.
func (s *Server) Sockets() ([]*os.File, error) {
	conn, err := s.conn.File()
	if err != nil {
		return nil, fmt.Errorf("copying the socket of TFTP: %w", err)
	}
	files := []*os.File{conn}
	if s.book != nil {
		f, err := s.book.copy()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("copying the book of transfers: %w", err), conn.Close())
		}
		files = append(files, f)
	}
	return files, nil
}

// watch opens what tells where requests come from. On an error the server is to be closed.
func (s *Server) watch(ifi *net.Interface, ip6 bool) (err error) {
	if s.raw, err = s.conn.SyscallConn(); err != nil {
		return err
	}
	if err := s.raw.Control(func(fd uintptr) { iface.GrowBuffers(int(fd)) }); err != nil {
		return err
	}
	if s.seen, err = iface.ListenFrames(ifi, ip6, port, opRead); err != nil {
		return err
	}
	if s.ports, err = iface.OpenPorts(ifi.Index); err != nil {
		return fmt.Errorf("opening the bridge's table of addresses: %w", err)
	}
	return nil
}

// closeAll closes what is open.
func (s *Server) closeAll() error {
	errs := []error{s.conn.Close(), s.root.Close(), s.book.close()}
	if s.seen != nil {
		errs = append(errs, s.seen.Close())
	}
	if s.ports != nil {
		errs = append(errs, s.ports.Close())
	}
	return errors.Join(errs...)
}

// Reconfigure tells whether the server does what cfg asks for: an error says that another
// one is to be opened. Logger and Left are ignored.
func (s *Server) Reconfigure(cfg Config) error {
	is := s.cfg
	if cfg.Network != is.Network || cfg.Interface != is.Interface || cfg.Addr != is.Addr || cfg.Root != is.Root {
		return fmt.Errorf("reconfiguring TFTP of network %q: another address or directory is wanted: open it anew", is.Network)
	}
	return nil
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
// that run end here; who opens a server on what Sockets has returned goes on with them. It returns when all that it started has ended and the
// socket is closed. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	s.resume(ctx)
	s.transfers.Go(func() { s.collectLoop(ctx) })
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

// collectLoop takes in the frames of requests until ctx ends, also those to others, so that the
// kernel has room for the next ones.
func (s *Server) collectLoop(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.seen.Collect()
		}
	}
}

// handle acts on a packet, whose header is complete.
func (s *Server) handle(ctx context.Context, b []byte, peer netip.AddrPort) {
	s.mu.Lock()
	running := s.running[peer]
	replaced := running != nil && running.replacedBy(b)
	s.mu.Unlock()
	switch {
	case running != nil && !replaced:
		running.handle(b)
	case b[1] == opRead:
		s.begin(ctx, b, peer, guest{peer.Addr(), s.place(b, peer)})
	case b[1] == opWrite:
		s.begin(ctx, b, peer, guest{addr: peer.Addr()})
	}
}

// place returns where a request came from.
func (s *Server) place(b []byte, src netip.AddrPort) place {
	s.seen.Collect()
	hw := s.seen.Source(src, s.cfg.Addr, b, iface.HWAddr{})
	if hw == (iface.HWAddr{}) {
		return place{}
	}
	if at := s.ports.Of(hw); at != 0 {
		return place{port: at}
	}
	return place{hw: hw}
}

// begin starts the transfer that a guest asks for, in the place of one that it has at that port.
func (s *Server) begin(ctx context.Context, b []byte, peer netip.AddrPort, who guest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former := s.running[peer]
	if former != nil {
		s.end(former)
	}
	if s.each[who] >= maxTransfersEach || len(s.running) >= maxTransfers && !s.yield(who.at) {
		s.count.limited.Add(1)
		return
	}
	t, err := s.prepare(b)
	if err != nil {
		s.refuse(peer, err)
		return
	}
	s.count.started.Add(1)
	record := s.book.enter(record{peer: peer, at: who.at, block: t.block, version: versionOf(t.file), request: b})
	s.run(ctx, &session{transfer: t, peer: peer, who: who, record: record, request: bytes.Clone(b), after: former})
}

// prepare makes the transfer that a request asks for.
func (s *Server) prepare(request []byte) (*transfer, error) {
	r, err := parse(request, s.cfg.Root)
	if err != nil {
		return nil, err
	}
	f, err := openFile(s.root, r.path)
	if err != nil {
		return nil, err
	}
	return newTransfer(r, f, s.block), nil
}

// refuse tells a guest that there is no transfer for it.
func (s *Server) refuse(peer netip.AddrPort, err error) {
	s.count.refused.Add(1)
	s.log.Debug("refusing a TFTP request", "ip", peer.Addr(), "error", err)
	_ = s.send(errorPacket(err), peer)
}

// run sets x going. s.mu must be locked.
func (s *Server) run(ctx context.Context, x *session) {
	x.number = s.started
	x.send = func(b []byte) error { return s.send(b, x.peer) }
	x.acked = func(first uint64) { s.acked(x, first) }
	s.started++
	s.running[x.peer] = x
	s.each[x.who]++
	s.at[x.who.at]++
	own, stop := context.WithCancel(ctx)
	x.stop, x.done = stop, make(chan struct{})
	s.transfers.Go(func() { s.transfer(own, x, ctx) })
}

// acked records that a guest has all blocks before first.
func (s *Server) acked(x *session, first uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.begun = true; s.running[x.peer] == x {
		s.book.acknowledged(x.record, first)
	}
}

// resume goes on with the transfers of a former process, whose guests wait for the next
// block. One whose file is another one by now is refused.
func (s *Server) resume(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.book.records() {
		peer := r.peer
		if a := peer.Addr(); a.Is6() && a.IsLinkLocalUnicast() {
			peer = netip.AddrPortFrom(a.WithZone(s.ifi.Name), peer.Port())
		}
		t, err := s.prepare(r.request)
		if err == nil && versionOf(t.file) != r.version {
			err = errors.Join(fmt.Errorf("%w: it has changed", os.ErrNotExist), t.file.Close())
		} else if err == nil {
			t.block = r.block
			if err = t.skip(r.first); err != nil {
				err = errors.Join(err, t.file.Close())
			}
		}
		if err != nil {
			s.book.strike(r.number)
			s.refuse(peer, err)
			continue
		}
		s.run(ctx, &session{transfer: t, peer: peer, who: guest{peer.Addr(), r.at}, record: r.number, request: r.request, begun: r.first > 0})
	}
}

// yield gives up the oldest transfer of the place that has most of them for one of another
// place. It returns false when that has as many itself. s.mu must be locked.
func (s *Server) yield(to place) bool {
	var oldest *session
	for _, x := range s.running {
		if oldest == nil || s.at[x.who.at] > s.at[oldest.who.at] || s.at[x.who.at] == s.at[oldest.who.at] && x.number < oldest.number {
			oldest = x
		}
	}
	if s.at[to]+1 >= s.at[oldest.who.at] {
		return false
	}
	s.count.limited.Add(1)
	s.end(oldest)
	return true
}

// end gives up x. s.mu must be locked.
func (s *Server) end(x *session) {
	x.stop()
	s.remove(x)
}

// send sends a packet. One that the kernel can't take now is lost, as it may be on the way.
func (s *Server) send(b []byte, peer netip.AddrPort) error {
	var to unix.Sockaddr = &unix.SockaddrInet6{Port: int(peer.Port()), ZoneId: uint32(s.ifi.Index), Addr: peer.Addr().As16()}
	if a := peer.Addr().Unmap(); a.Is4() {
		to = &unix.SockaddrInet4{Port: int(peer.Port()), Addr: a.As4()}
	}
	if err := iface.Send(s.raw, b, nil, to); !errors.Is(err, unix.EAGAIN) {
		return err
	}
	return nil
}

// transfer runs x to its end. Where that is only because all ends, the next process goes
// on with it.
func (s *Server) transfer(ctx context.Context, x *session, all context.Context) {
	defer x.stop()
	if x.after != nil {
		<-x.after.done // or the guest might take the former file's block for one of this
		x.after = nil
	}
	err := x.run(ctx)
	close(x.done)
	if err == nil {
		s.count.done.Add(1)
	}
	s.log.Debug("TFTP transfer ended", "ip", x.who.addr, "name", x.file.Name(), "error", errors.Join(err, x.file.Close()))
	if all.Err() != nil && errors.Is(err, context.Canceled) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(x)
}

// remove forgets x, unless it did already. s.mu must be locked.
func (s *Server) remove(x *session) {
	if s.running[x.peer] != x {
		return
	}
	delete(s.running, x.peer)
	s.book.strike(x.record)
	if s.each[x.who]--; s.each[x.who] == 0 {
		delete(s.each, x.who)
	}
	if s.at[x.who.at]--; s.at[x.who.at] == 0 {
		delete(s.at, x.who.at)
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
