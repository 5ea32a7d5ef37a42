package resolved

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// maxReverseZones is how many zones stand for one subnet at most.
const maxReverseZones = 16

// reverseZones returns the zones that have the reverse names of p and no others,
// or, if those are too many, the one that has them all.
func reverseZones(p netip.Prefix) []string {
	step := 4 // bits of a label
	if p.Addr().Is4() {
		step = 8
	}
	bits := (p.Bits() + step - 1) / step * step
	if count := 1 << (bits - p.Bits()); count > 1 && count <= maxReverseZones {
		zones := make([]string, 0, count)
		a := p.Addr()
		for range count {
			zones = append(zones, wire.ReverseZone(netip.PrefixFrom(a, bits)))
			a = after(a, bits)
		}
		return zones
	}
	return []string{wire.ReverseZone(p)}
}

// after returns the first address behind the prefix of a that is bits long.
func after(a netip.Addr, bits int) netip.Addr {
	raw := a.AsSlice()
	carry := 1 << (7 - (bits-1)%8)
	for i := (bits - 1) / 8; i >= 0 && carry > 0; i-- {
		sum := int(raw[i]) + carry
		raw[i], carry = byte(sum), sum>>8
	}
	next, _ := netip.AddrFromSlice(raw)
	return next
}
