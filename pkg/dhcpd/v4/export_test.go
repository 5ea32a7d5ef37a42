package v4

import (
	"net"
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

// ProbeWait is how long the server listens before it offers an address.
const ProbeWait = probeWait

// ARPProbe is the frame that asks who has an address.
func ARPProbe(from net.HardwareAddr, a netip.Addr) []byte { return arpProbe(dhcpd.HWAddr(from), a) }

// ARPSender is who sent an ARP packet, and the address that it says to have; the
// zero Addr when it says nothing.
func ARPSender(frame []byte) (netip.Addr, net.HardwareAddr) {
	a, hw, ok := arpSender(frame)
	if !ok {
		return netip.Addr{}, nil
	}
	return a, hw[:]
}
