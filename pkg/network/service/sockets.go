package service

import (
	"context"
	"maps"
	"os"
	"slices"
	"sync"
)

// Sockets has those of services outlive vnetd, so that what guests ask while none runs
// waits and is answered by the next one.
type Sockets interface {
	// Take returns the sockets that a former vnetd has left of a service on a bridge.
	// They are the caller's to close, and returned once.
	Take(bridge, service string) []*os.File
	// Keep has the next vnetd get sockets, and none else of the service, however this one
	// ends. They are no longer the caller's. drop takes that back, unless Keep was called
	// for the service again.
	Keep(bridge, service string, sockets []*os.File) (drop func())
}

// bound is a server with sockets that the next one can take over.
type bound interface {
	// Sockets returns copies of them.
	Sockets() ([]*os.File, error)
}

// leaver is a bound server that has to do something before it is left: to stop reading,
// and to answer what it was asked. After Leave it is to be ended.
type leaver interface {
	Leave(ctx context.Context) ([]*os.File, error)
}

// held is what is kept of the sockets of a set.
type held struct {
	mu   sync.Mutex
	drop map[string]func() // by service
}

// keep has drop end what is kept of a service.
func (h *held) keep(service string, drop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.drop == nil {
		h.drop = make(map[string]func())
	}
	h.drop[service] = drop
}

// end drops what is kept of a service that ended, unless it was left.
func (h *held) end(service string) {
	h.mu.Lock()
	drop := h.drop[service]
	delete(h.drop, service)
	h.mu.Unlock()
	if drop != nil {
		drop()
	}
}

// leave returns what drops all that is kept by now, which the end of a service does no longer.
func (h *held) leave() []func() {
	h.mu.Lock()
	defer h.mu.Unlock()
	drops := slices.Collect(maps.Values(h.drop))
	clear(h.drop)
	return drops
}

// Left are the sockets of a set for the one that takes its place. The methods of a nil
// *Left find nothing to do.
type Left struct {
	mu    sync.Mutex
	files map[string][]*os.File // by service
	drops []func()
}

// take returns the sockets of a service, once.
func (l *Left) take(service string) []*os.File {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	defer delete(l.files, service)
	return l.files[service]
}

// add adds the sockets of a service.
func (l *Left) add(service string, files []*os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files[service] = files
}

// Close closes what no other set has taken.
func (l *Left) Close() {
	if l == nil {
		return
	}
	for _, files := range l.files {
		closeFiles(files)
	}
	var all sync.WaitGroup
	for _, drop := range l.drops {
		all.Go(drop)
	}
	all.Wait()
}

// inherited returns what a former set of the network, or a former vnetd, has left of a
// service; the caller closes it.
func (s *Set) inherited(bridge, service string) []*os.File {
	left := s.cfg.Left.take(service)
	if len(left) == 0 && s.cfg.Sockets != nil {
		left = s.cfg.Sockets.Take(bridge, service)
	}
	return left
}

// keep has the next vnetd get the sockets of an open server.
func (s *Set) keep(bridge, service string, srv runner) {
	b, ok := srv.(bound)
	if !ok || s.cfg.Sockets == nil {
		return
	}
	files, err := b.Sockets()
	if err != nil {
		s.log.Warn("what guests ask is refused until vnetd is back, should it end", "service", service, "error", err)
	}
	s.held.keep(service, s.cfg.Sockets.Keep(bridge, service, files))
}

// forget has the next vnetd get no sockets of a service that could not be opened.
func (s *Set) forget(bridge, service string) {
	if s.cfg.Sockets != nil {
		s.cfg.Sockets.Keep(bridge, service, nil)()
	}
}

// Leave has the services stop to read, and returns their sockets for the set that takes
// the place of this one, whose end follows. It returns once they have answered what they
// have been asked, or when ctx ends.
func (s *Set) Leave(ctx context.Context) *Left {
	if s == nil {
		return nil
	}
	l := &Left{files: make(map[string][]*os.File), drops: s.held.leave()}
	var all sync.WaitGroup
	for service, srv := range s.open() {
		all.Go(func() {
			files, err := leaveServer(ctx, srv)
			if err != nil {
				s.log.Warn("what guests ask is refused until their network serves again", "service", service, "error", err)
			}
			l.add(service, files)
		})
	}
	all.Wait()
	return l
}

// leaveServer leaves one server.
func leaveServer(ctx context.Context, srv bound) ([]*os.File, error) {
	if l, ok := srv.(leaver); ok {
		return l.Leave(ctx)
	}
	return srv.Sockets()
}

// LeaveToNext has the services stop to read, and leaves their sockets, which the next
// vnetd has in any case, as Leave does, with what is open beside them: the connections of
// their clients.
func (s *Set) LeaveToNext(ctx context.Context) {
	if s == nil || s.cfg.Sockets == nil {
		return
	}
	bridge := s.serving().Bridge
	l := s.Leave(ctx)
	for service, files := range l.files {
		if len(files) > 0 {
			s.cfg.Sockets.Keep(bridge, service, files)
		}
	}
}

// open lists the open servers that are bound, by service.
func (s *Set) open() map[string]bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]bound)
	for _, p := range s.parts() {
		if b, ok := p.current().(bound); ok {
			all[p.name()] = b
		}
	}
	return all
}

// closeFiles closes copies of sockets, which loses nothing.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
