package netdef

import (
	"bytes"
	"net/netip"
	"slices"
)

// subnet returns the <ip> whose DHCP is updated: virNetworkIPDefByIndex.
func (up *updater) subnet() (*IP, error) {
	ips := up.n.IPs
	if up.Index >= 0 {
		if up.Index >= len(ips) {
			return nil, up.fail(ErrNoEntry, "network '%s' has no <ip> with index %d: it has %d, counted from 0",
				up.n.Name, up.Index, len(ips))
		}
		return &ips[up.Index], nil
	}
	for _, wanted := range []func(IP) bool{
		func(ip IP) bool { return ip.DHCP != nil },
		func(ip IP) bool { return ip.Address.Is4() },
		func(IP) bool { return true },
	} {
		if i := slices.IndexFunc(ips, wanted); i >= 0 {
			return &ips[i], nil
		}
	}
	return nil, up.fail(ErrNoEntry, "network '%s' has no <ip> to have DHCP on", up.n.Name)
}

// updateDHCP lets edit change the DHCP of the <ip> that is meant. One that is
// left without a range and a host is no more.
func (up *updater) updateDHCP(edit func(*DHCP) error) error {
	ip, err := up.subnet()
	if err != nil {
		return err
	}
	if ip.DHCP == nil {
		ip.DHCP = &DHCP{}
	}
	if err := edit(ip.DHCP); err != nil {
		return err
	}
	if len(ip.DHCP.Ranges) == 0 && len(ip.DHCP.Hosts) == 0 {
		ip.DHCP = nil
	}
	return nil
}

// dhcpHost updates the <host>s of DHCP: virNetworkDefUpdateIPDHCPHost. One is
// in the way of another by MAC, name or address, and found by any of them to
// be replaced. To be deleted it has all that is given.
func (up *updater) dhcpHost(e element) error {
	h := e.dhcpHost()
	if anonymous := h.MAC == nil && h.Name == "" && !h.IP.IsValid(); anonymous && len(up.faults) == 0 {
		up.faults.add("host", "", "want a mac, name or ip to know the entry by")
	}
	if err := up.readable(); err != nil {
		return err
	}
	return up.updateDHCP(func(d *DHCP) (err error) {
		r := rule[DHCPHost]{conflict: h.collides, modify: h.collides, remove: h.covers}
		d.Hosts, err = change(up, d.Hosts, h, r, (*printer).dhcpHost)
		return err
	})
}

// collides reports whether h and o claim the same MAC, name or address.
func (h *DHCPHost) collides(o *DHCPHost) bool {
	return h.MAC != nil && bytes.Equal(h.MAC, o.MAC) || h.Name != "" && h.Name == o.Name || sameAddr(h.IP, o.IP)
}

// covers reports whether o has all that h has. libvirt takes any MAC for that
// of an entry without one, and so may delete another host than was meant.
func (h *DHCPHost) covers(o *DHCPHost) bool {
	return (h.MAC == nil || bytes.Equal(h.MAC, o.MAC)) && (h.Name == "" || h.Name == o.Name) &&
		(!h.IP.IsValid() || h.IP == o.IP)
}

// sameAddr reports whether a is an address and b the same.
func sameAddr(a, b netip.Addr) bool { return a.IsValid() && a == b }

// dhcpRange updates the <range>s of DHCP: virNetworkDefUpdateIPDHCPRange. Both
// ends identify one.
func (up *updater) dhcpRange(e element) error {
	r := e.dhcpRange()
	if len(up.faults) == 0 {
		c := checker{}
		c.present("range", r.Start, r.End)
		up.faults = c.Faults
	}
	if err := up.readable(); err != nil {
		return err
	}
	same := func(o *DHCPRange) bool { return o.Start == r.Start && o.End == r.End }
	return up.updateDHCP(func(d *DHCP) (err error) {
		d.Ranges, err = change(up, d.Ranges, r, rule[DHCPRange]{conflict: same, remove: same}, (*printer).dhcpRange)
		return err
	})
}
