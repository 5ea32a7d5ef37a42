package service_test

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/network/service"
)

// idle is a network without guests.
type idle struct{ service.Owner }

func (idle) Fault(string, error)             {}
func (idle) Guests() []service.Guest         { return nil }
func (idle) Elsewhere() []dnsd.Host          { return nil }
func redirected(context.Context, bool) error { return nil }

// shelf is the service manager's store of sockets: it has their descriptors until they are
// dropped. Who puts some there waits for room.
type shelf struct {
	comes chan struct{} // somebody waits
	room  chan struct{} // closed when there is

	mu   sync.Mutex
	kept map[string][]*os.File
}

func (s *shelf) Take(string, string) []*os.File { return nil }

func (s *shelf) Keep(_, name string, sockets []*os.File) (drop func()) {
	s.comes <- struct{}{}
	<-s.room
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[name] = sockets
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.kept[name] {
			_ = f.Close()
		}
		delete(s.kept, name)
	}
}

// A service that opens while its set is left for another one leaves nothing that has its port.
func TestLeaveWhileOpening(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link set lo up")
		store := &shelf{make(chan struct{}, 1), make(chan struct{}), sync.Mutex{}, make(map[string][]*os.File)}
		spec := &service.Spec{Bridge: "lo", Redirect: redirected, DNS: &dnsd.Config{
			Network: "lab", Interface: "lo", Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, Logger: slog.New(slog.DiscardHandler),
		}}
		set := service.New(t.Context(), service.Config{Owner: idle{}, Log: slog.New(slog.DiscardHandler), Sockets: store}, spec)
		set.Run()
		<-store.comes
		left := set.Leave(t.Context())
		close(store.room)
		set.Stop()
		left.Close()
		srv, err := dnsd.Open(*spec.DNS)
		if err != nil {
			t.Fatalf("the port is not free: %v; what is kept: %v", err, store.kept)
		}
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
}
