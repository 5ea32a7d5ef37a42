package dhcpdtest

import (
	"net/netip"
	"os"
	"testing"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// Sink is a link on which the last reply is kept, and a store that keeps nothing: for who
// measures what is between them.
type Sink struct{ Last dhcpd.Reply }

// type checks
var (
	_ dhcpd.Transport  = (*Sink)(nil)
	_ dhcpd.LeaseStore = (*Sink)(nil)
)

// Receive implements dhcpd.Transport: nothing comes.
func (*Sink) Receive() ([]dhcpd.Datagram, error) { return nil, os.ErrClosed }

// Collect implements dhcpd.Transport.
func (*Sink) Collect() (many bool) { return false }

// Send implements dhcpd.Transport.
func (s *Sink) Send(out []*dhcpd.Reply, _ func(*dhcpd.Reply, error)) {
	payload := s.Last.Payload
	s.Last = *out[len(out)-1]
	s.Last.Payload = append(payload[:0], s.Last.Payload...)
}

// Interrupt implements dhcpd.Transport.
func (*Sink) Interrupt() {}

// Copy implements dhcpd.Transport.
func (*Sink) Copy() (*os.File, error) { return nil, os.ErrInvalid }

// Close implements dhcpd.Transport.
func (*Sink) Close() error { return nil }

// Load implements dhcpd.LeaseStore.
func (*Sink) Load() ([]dhcpd.Lease, error) { return nil, nil }

// Commit implements dhcpd.LeaseStore.
func (*Sink) Commit([]dhcpd.Lease, []netip.Addr) error { return nil }

// Newcomers measures what each new client costs an engine: serve has the n-th be served. The engine
// is made anew when it has so many clients.
func Newcomers(b *testing.B, clients int, open func() (*dhcpd.Engine, error), serve func(e *dhcpd.Engine, n int)) {
	b.Helper()
	var e *dhcpd.Engine
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%clients == 0 {
			var err error
			if e, err = open(); err != nil {
				b.Fatal(err)
			}
		}
		serve(e, n)
	}
}
