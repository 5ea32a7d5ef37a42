package v6

import (
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// OpenOn is Open on a simulated link.
func OpenOn(cfg Config, link *dhcpdtest.SimLink) (*Server, error) {
	return open(cfg, func() (dhcpd.Transport, error) { return link, nil })
}

// Handle is what happens to one datagram, and then to what it left for the
// committer. For a server on a SimLink that does not run.
func (s *Server) Handle(link *dhcpdtest.SimLink, payload []byte, src netip.AddrPort, dst netip.Addr, now time.Time) []dhcpdtest.Sent {
	return dhcpdtest.Handle(s.h.Engine, link, payload, src, dst, now)
}
