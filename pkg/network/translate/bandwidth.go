package translate

import (
	"cmp"
	"math"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// What libvirt's numbers count: tc(8), whom it asks, takes kbps for 1000 bytes a second
// and kb for 1024 bytes.
const (
	rateUnit  = 1000
	burstUnit = 1024
)

// rate is a limit in bytes; nil for none.
func rate(r *netdef.Rate) *tc.Rate {
	if r == nil || r.Average == 0 {
		return nil
	}
	return &tc.Rate{Average: times(r.Average, rateUnit), Peak: times(r.Peak, rateUnit), Burst: times(r.Burst, burstUnit)}
}

// times is n of a unit, or the most that there is: what is more than that is no less.
func times(n, unit uint64) uint64 {
	if n > math.MaxUint64/unit {
		return math.MaxUint64
	}
	return n * unit
}

// Bandwidth is how the device of a port with that bandwidth is held, nil for none: what
// guests receive leaves it.
func Bandwidth(b *netdef.Bandwidth) (cfg tc.Config) {
	if b != nil {
		cfg.Egress, cfg.Ingress = rate(b.Inbound), rate(b.Outbound)
	}
	return cfg
}

// BridgeBandwidth is how the bridge of a network that is live is held: what it gives to
// all guests together is shared, with the floors of its ports.
func BridgeBandwidth(live *netdef.Network, ports []*netdef.Port) tc.Config {
	cfg := Bandwidth(live.Bandwidth)
	cfg.Shared = true
	for _, p := range ports {
		if floor := p.Bandwidth.Floor(); floor != 0 && p.ClassID != 0 && cfg.Egress != nil {
			cfg.Floors = append(cfg.Floors, tc.Floor{Class: uint16(p.ClassID), MAC: p.MAC, Rate: times(floor, rateUnit)})
		}
	}
	return cfg
}

// PortBandwidth is the bandwidth of a port of that group which asks for one, nil for
// none: what it asks for, or else its group's.
func PortBandwidth(live *netdef.Network, group string, asked *netdef.Bandwidth) *netdef.Bandwidth {
	return cmp.Or(asked, portGroup(live, group).Bandwidth)
}

// CheckGroup refuses a group of ports that the network has not; empty is none. libvirt
// takes any, which is then as good as none.
func CheckGroup(live *netdef.Network, group string) error {
	if group == "" || portGroup(live, group).Name == group {
		return nil
	}
	return api.Errorf(api.Invalid, "option portgroup: network %q has no <portgroup name='%.80s'>", live.Name, group)
}

// FreeClass is a traffic class for a floor that none of the ports has; 0 where there is
// none left.
func FreeClass(ports []*netdef.Port) uint32 {
	taken := make(map[uint32]bool)
	for _, p := range ports {
		taken[p.ClassID] = true
	}
	for id := uint32(tc.MinFloorClass); id <= tc.MaxFloorClass; id++ {
		if !taken[id] {
			return id
		}
	}
	return 0
}

// CheckFloors refuses a floor of p that the network can't keep beside those of its other
// ports, as networkCheckBandwidth of libvirt does.
func CheckFloors(live *netdef.Network, p *netdef.Port, ports []*netdef.Port) error {
	if err := CheckFloor(live, p); err != nil || p.Bandwidth.Floor() == 0 {
		return err
	}
	sum := p.Bandwidth.Floor()
	for _, other := range ports {
		if other.UUID != p.UUID {
			sum += other.Bandwidth.Floor()
		}
	}
	what, most := "average", live.Bandwidth.Inbound.Average
	if peak := live.Bandwidth.Inbound.Peak; peak != 0 {
		what, most = "peak", peak
	}
	if sum > most {
		return api.Errorf(api.InvalidState, "Cannot plug '%s' interface into '%s' because new combined inbound floor=%d would overcommit %s=%d on network '%s'",
			p.MAC, live.Bridge.Name, sum, what, most, live.Name)
	}
	return nil
}

// CheckPortFloors refuses what a network shall be that can't keep the floors of its
// ports.
func CheckPortFloors(next *netdef.Network, ports []*netdef.Port) error {
	for _, p := range ports {
		if err := CheckFloors(next, p, ports); err != nil {
			return api.Errorf(api.InvalidState, "network/bandwidth/inbound: %w", err)
		}
	}
	return nil
}
