// Package announce has what of networks routers are told, by pkg/bgp: which prefixes those are,
// and who has been told of which.
package announce

import (
	"bytes"
	"net/netip"
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Guest is a guest on this host.
type Guest struct {
	MAC       []byte
	Name      string       // of its port; may be empty
	Addresses []netip.Addr // set aside for it, or leased
}

// Prefixes are what is announced of doc, on which those guests are, in order: its subnets, or
// each guest by itself, whose addresses are those that it has, and those that the document
// reserves for it.
func Prefixes(doc *netdef.Network, guests []Guest) (all []netip.Prefix) {
	spans := doc.Span != nil
	for i := range doc.IPs {
		ip := &doc.IPs[i]
		subnet := ip.Prefix().Masked()
		if subnet.Addr().IsLinkLocalUnicast() {
			continue
		}
		if doc.Announce.Subnets(spans) {
			all = append(all, subnet)
		}
		if !doc.Announce.Guests(spans) {
			continue
		}
		for j := range guests {
			for _, a := range append(reserved(ip, &guests[j]), guests[j].Addresses...) {
				if subnet.Contains(a) && a != ip.Address {
					all = append(all, netip.PrefixFrom(a, a.BitLen()))
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b netip.Prefix) int { return a.Compare(b) })
	return slices.Compact(all)
}

// reserved are the addresses of ip that the document reserves for a guest.
func reserved(ip *netdef.IP, g *Guest) (all []netip.Addr) {
	if ip.DHCP == nil {
		return nil
	}
	for i := range ip.DHCP.Hosts {
		h := &ip.DHCP.Hosts[i]
		byName := h.MAC == nil && h.ID == "" && h.Name != "" && h.Name == g.Name
		if h.IP.IsValid() && (byName || len(h.MAC) > 0 && bytes.Equal(h.MAC, g.MAC)) {
			all = append(all, h.IP)
		}
	}
	return all
}
