package service

import (
	"context"
	"os"
	"sync"
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

// leaver is a server whose sockets are passed on. After Leave it is to be ended.
type leaver interface {
	Leave(ctx context.Context) ([]*os.File, error)
}

// inherited returns what a former vnetd has left of a service; the caller closes it.
func inherited(from Sockets, bridge, service string) []*os.File {
	if from == nil {
		return nil
	}
	return from.Take(bridge, service)
}

// Leave leaves the sockets of the services to the next vnetd. One that has failed
// has none. ctx bounds how long they answer what they have been asked.
func (s *Set) Leave(ctx context.Context) {
	if s == nil || s.cfg.Sockets == nil {
		return
	}
	bridge := s.serving().Bridge
	var all sync.WaitGroup
	leave := func(service string, l leaver) {
		all.Go(func() { s.leave(ctx, bridge, service, l) })
	}
	open := s.Servers()
	if srv := open.DHCP; srv != nil {
		leave(DHCP, srv)
	}
	if srv := open.DHCP6; srv != nil {
		leave(DHCP6, srv)
	}
	if srv := open.DNS; srv != nil {
		leave(DNS, srv)
	}
	all.Wait()
}

// leave leaves the sockets of one server.
func (s *Set) leave(ctx context.Context, bridge, service string, l leaver) {
	sockets, err := l.Leave(ctx)
	if err == nil {
		defer closeFiles(sockets)
		err = s.cfg.Sockets.Leave(bridge, service, sockets)
	}
	if err != nil {
		s.log.Warn("what guests ask is refused until vnetd is back", "service", service, "error", err)
	}
}

// closeFiles closes copies of sockets, which loses nothing.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
