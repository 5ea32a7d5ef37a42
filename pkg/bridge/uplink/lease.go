package uplink

import (
	"net/netip"
	"time"
)

// Ending is an IPv4 address of the host's whose client of DHCP is late: it has a lifetime,
// which was not renewed when half of it was over (RFC 2131 section 4.4.5, T1).
type Ending struct {
	Prefix netip.Prefix
	Left   time.Duration // in whole seconds
}

// lateShare is the part of a lifetime that is left when a client that works has renewed
// it: half of it, less some attempts.
const lateShare = 0.4

// ending are the addresses of the bridge that end unless somebody renews them: a client
// that works on the uplink does not hear what comes in by the bridge.
func (k kernel) ending(s *State, bridge int) (all []Ending, err error) {
	have, err := k.addresses(bridge)
	if err != nil {
		return nil, err
	}
	for _, data := range s.Addresses {
		was, err := parseAddress(data)
		if err != nil || !was.prefix.Addr().Is4() || was.valid() == forever {
			continue
		}
		for _, is := range have {
			if is.same(was) && is.valid() != forever && float64(is.valid()) < lateShare*float64(was.valid()) {
				all = append(all, Ending{is.prefix, time.Duration(is.valid()) * time.Second})
			}
		}
	}
	return all, nil
}
