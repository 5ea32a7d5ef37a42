package netdef

import (
	"slices"

	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// Clone returns a copy of n that shares nothing with it.
func (n *Network) Clone() *Network {
	c := *n
	c.Metadata = slices.Clone(n.Metadata)
	c.Forward = n.Forward.clone()
	c.MAC = slices.Clone(n.MAC)
	c.Domain = clonePtr(n.Domain)
	c.DNS = n.DNS.clone()
	c.VLAN = n.VLAN.clone()
	c.Bandwidth = n.Bandwidth.clone()
	c.IPs = cloneEach(n.IPs, func(ip *IP) { ip.DHCP = ip.DHCP.clone() })
	c.Routes = slices.Clone(n.Routes)
	c.VirtualPort = n.VirtualPort.clone()
	c.PortGroups = cloneEach(n.PortGroups, func(g *PortGroup) {
		g.VLAN, g.VirtualPort, g.Bandwidth = g.VLAN.clone(), g.VirtualPort.clone(), g.Bandwidth.clone()
	})
	if c.HostAccess = clonePtr(n.HostAccess); c.HostAccess != nil {
		c.HostAccess.MAC = slices.Clone(c.HostAccess.MAC)
	}
	c.Access = n.Access.clone()
	c.Records = slices.Clone(n.Records)
	c.PortForwards = cloneEach(n.PortForwards, func(f *PortForward) { f.From = slices.Clone(f.From) })
	c.Peers, c.Rules = policy.ClonePeers(n.Peers), n.Rules.Clone()
	c.Span, c.Announce = n.Span.Clone(), n.Announce.Clone()
	c.Ignored = slices.Clone(n.Ignored)
	return &c
}

// clonePtr returns a pointer to a shallow copy; nil for nil.
func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// cloneEach copies a slice and lets deepen finish each copied element.
func cloneEach[T any](s []T, deepen func(*T)) []T {
	c := slices.Clone(s)
	for i := range c {
		deepen(&c[i])
	}
	return c
}

func (f *Forward) clone() *Forward {
	c := clonePtr(f)
	if c != nil {
		c.Interfaces, c.Addresses = slices.Clone(f.Interfaces), slices.Clone(f.Addresses)
		c.Driver = clonePtr(f.Driver)
		c.NAT = f.NAT.clone()
	}
	return c
}

func (a *Access) clone() *Access {
	c := clonePtr(a)
	if c != nil {
		c.Users, c.Groups = slices.Clone(a.Users), slices.Clone(a.Groups)
	}
	return c
}

func (n *NAT) clone() *NAT {
	c := clonePtr(n)
	if c != nil {
		c.Address, c.Port = clonePtr(n.Address), clonePtr(n.Port)
	}
	return c
}

func (d *DNS) clone() *DNS {
	c := clonePtr(d)
	if c != nil {
		c.Forwarders, c.TXT, c.SRV = slices.Clone(d.Forwarders), slices.Clone(d.TXT), slices.Clone(d.SRV)
		c.Hosts = cloneEach(d.Hosts, func(h *DNSHost) { h.Hostnames = slices.Clone(h.Hostnames) })
	}
	return c
}

func (d *DHCP) clone() *DHCP {
	c := clonePtr(d)
	if c != nil {
		c.Ranges = cloneEach(d.Ranges, func(r *DHCPRange) { r.Lease = clonePtr(r.Lease) })
		c.Hosts = cloneEach(d.Hosts, func(h *DHCPHost) {
			h.MAC, h.Lease = slices.Clone(h.MAC), clonePtr(h.Lease)
		})
		c.Bootp = clonePtr(d.Bootp)
		c.Boots = slices.Clone(d.Boots)
	}
	return c
}

func (v *VLAN) clone() *VLAN {
	c := clonePtr(v)
	if c != nil {
		c.Tags = slices.Clone(v.Tags)
	}
	return c
}

func (b *Bandwidth) clone() *Bandwidth {
	c := clonePtr(b)
	if c != nil {
		c.Inbound, c.Outbound = clonePtr(b.Inbound), clonePtr(b.Outbound)
	}
	return c
}

func (v *VirtualPort) clone() *VirtualPort {
	c := clonePtr(v)
	if c != nil {
		c.ManagerID, c.TypeID, c.TypeIDVersion = clonePtr(v.ManagerID), clonePtr(v.TypeID), clonePtr(v.TypeIDVersion)
	}
	return c
}
