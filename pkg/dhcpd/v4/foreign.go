package v4

import (
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"
)

// maxForeign bounds the other servers that are remembered: guests can make them
// up.
const maxForeign = 8

// ForeignServer is another DHCP server on the link, known from clients that chose
// its offer and said so to all (RFC 2131, section 3.1, step 3).
type ForeignServer struct {
	Addr   netip.Addr
	Client net.HardwareAddr // who chose it last
	Seen   time.Time
}

// foreign notes that c chose the offer of another server. the engine must be locked.
func (s *handler) foreign(c *request) {
	if s.others == nil {
		s.others = make(map[netip.Addr]ForeignServer)
	}
	_, known := s.others[c.serverID]
	if !known && len(s.others) >= maxForeign {
		oldest := slices.MinFunc(slices.Collect(maps.Values(s.others)), func(a, b ForeignServer) int { return a.Seen.Compare(b.Seen) })
		delete(s.others, oldest.Addr)
	}
	if !known {
		s.Log.Limited("another DHCP server on the bridge", "mac", c.MAC, "server", c.serverID)
	}
	s.others[c.serverID] = ForeignServer{Addr: c.serverID, Client: slices.Clone(c.MAC[:]), Seen: c.Now}
}
