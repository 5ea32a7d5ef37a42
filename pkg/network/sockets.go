package network

import (
	"context"
	"maps"
	"os"
	"sync"
	"time"
)

// Sockets passes those of services from one vnetd to the next, so that what guests
// ask in between waits and is answered.
type Sockets interface {
	// Take returns the sockets that a former vnetd has left of a service on a bridge.
	// They are the caller's to close, and returned once.
	Take(bridge, service string) []*os.File
	// Leave leaves sockets to the next vnetd. They remain the caller's.
	Leave(bridge, service string, sockets []*os.File) error
}

// leaveLimit is how long services may take, at their end, to answer what they have
// been asked.
const leaveLimit = time.Second

// leaver is a server whose sockets are passed on. After Leave it is to be ended.
type leaver interface {
	Leave(ctx context.Context) ([]*os.File, error)
}

// inherit returns what a former vnetd has left of a service; the caller closes it.
func (m *Manager) inherit(bridge, service string) []*os.File {
	if m.cfg.Sockets == nil {
		return nil
	}
	return m.cfg.Sockets.Take(bridge, service)
}

// leave leaves the sockets of all services to the next vnetd.
func (m *Manager) leave() {
	if m.cfg.Sockets == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range m.all() {
		n.mu.Lock()
		sv := n.services
		n.mu.Unlock()
		if sv != nil {
			all.Go(func() { sv.leave(ctx) })
		}
	}
	all.Wait()
}

// leave leaves the sockets of the network's services to the next vnetd. One that
// has failed has none.
func (s *services) leave(ctx context.Context) {
	s.mu.Lock()
	open, bridge := maps.Clone(s.open), s.live.Bridge.Name
	s.mu.Unlock()
	var all sync.WaitGroup
	for service, srv := range open {
		if l, ok := srv.(leaver); ok {
			all.Go(func() { s.leaveOne(ctx, bridge, service, l) })
		}
	}
	all.Wait()
}

// leaveOne leaves the sockets of one server.
func (s *services) leaveOne(ctx context.Context, bridge, service string, l leaver) {
	sockets, err := l.Leave(ctx)
	if err == nil {
		defer closeFiles(sockets)
		err = s.n.m.cfg.Sockets.Leave(bridge, service, sockets)
	}
	if err != nil {
		s.n.m.log.Warn("what guests ask is refused until vnetd is back", keyNetwork, s.n.name, "service", service, keyError, err)
	}
}

// closeFiles closes copies of sockets, which loses nothing.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
