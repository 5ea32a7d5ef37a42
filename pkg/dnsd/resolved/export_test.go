package resolved

import "net/netip"

// ReverseZones is reverseZones.
func ReverseZones(p netip.Prefix) []string { return reverseZones(p) }
