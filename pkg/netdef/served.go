package netdef

import (
	"fmt"
	"net/netip"
	"slices"
)

// Served returns n as far as it can be served, which is n itself where Validate
// accepts it, and the faults of what was left out: single names and records that
// Validate refuses, and that stand in a document all the same because an earlier
// version took them. The rest of a network must not suffer from one of them.
func (n *Network) Served() (*Network, Faults) {
	c := &checker{n: n, mode: n.Mode()}
	c.domain()
	c.dns()
	c.dhcpNames()
	if len(c.Faults) == 0 {
		return n, nil
	}
	served := n.Clone()
	served.dropDomain()
	if served.DNS != nil {
		served.DNS.dropFaulty(served)
	}
	for i := range served.IPs {
		if d := served.IPs[i].DHCP; d != nil {
			d.dropFaulty(served.IPs[i].Address)
		}
	}
	return served, c.Faults
}

// dhcpNames checks the names and identifiers of all static hosts.
func (c *checker) dhcpNames() {
	for i := range c.n.IPs {
		ip := &c.n.IPs[i]
		if ip.DHCP == nil {
			continue
		}
		for j, h := range ip.DHCP.Hosts {
			path := fmt.Sprintf("network/ip[%d]/dhcp/host[%d]", i+1, j+1)
			c.dhcpHostName(path+"/@name", h.Name)
			c.dhcpHostID(path+"/@id", h.ID, ip.Address)
		}
	}
}

// sound reports whether check finds no fault in an entry of n.
func sound(n *Network, check func(*checker)) bool {
	c := &checker{n: n, mode: n.Mode()}
	check(c)
	return len(c.Faults) == 0
}

// dropDomain drops a domain whose name can't be one, or what it may not have.
func (n *Network) dropDomain() {
	if sound(n, (*checker).domain) {
		return
	}
	if n.Domain.Register = Unset; !sound(n, (*checker).domain) {
		n.Domain = nil
	}
}

// dropFaulty drops each record of d, which is that of n, that has a fault.
func (d *DNS) dropFaulty(n *Network) {
	if d.Enable == No {
		*d = DNS{Enable: No}
	}
	d.Forwarders = slices.DeleteFunc(d.Forwarders, func(f Forwarder) bool { return !sound(n, func(c *checker) { c.forwarder("", f) }) })
	d.TXT = slices.DeleteFunc(d.TXT, func(t TXT) bool { return !sound(n, func(c *checker) { c.txt("", t) }) })
	d.SRV = slices.DeleteFunc(d.SRV, func(s SRV) bool { return !sound(n, func(c *checker) { c.srv("", s) }) })
	d.Hosts = slices.DeleteFunc(d.Hosts, func(h DNSHost) bool { return !sound(n, func(c *checker) { c.dnsHost("", h) }) })
}

// dropFaulty empties names and identifiers of d, on the address server, that no
// client can have.
func (d *DHCP) dropFaulty(server netip.Addr) {
	for i := range d.Hosts {
		h := &d.Hosts[i]
		if !sound(&Network{}, func(c *checker) { c.dhcpHostName("", h.Name) }) {
			h.Name = ""
		}
		if !sound(&Network{}, func(c *checker) { c.dhcpHostID("", h.ID, server) }) {
			h.ID = ""
		}
	}
}

// Anonymous reports whether there is nothing that a client would be known by.
func (h *DHCPHost) Anonymous() bool { return h.MAC == nil && h.ID == "" && h.Name == "" }

// Runnable returns what keeps n from being active, as Faults; nil if nothing
// does. It is Validate without the faults of what Served leaves out.
func (n *Network) Runnable() error {
	served, faults := n.Served()
	if len(faults) == 0 {
		return n.Validate()
	}
	for i := range served.IPs {
		if d := served.IPs[i].DHCP; d != nil {
			d.Hosts = slices.DeleteFunc(d.Hosts, func(h DHCPHost) bool { return h.Anonymous() })
		}
	}
	return served.Validate()
}
