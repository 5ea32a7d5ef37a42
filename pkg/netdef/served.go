package netdef

import (
	"fmt"
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
			d.dropFaulty()
		}
	}
	return served, c.Faults
}

// dhcpNames checks the names of all static hosts.
func (c *checker) dhcpNames() {
	for i := range c.n.IPs {
		if c.n.IPs[i].DHCP == nil {
			continue
		}
		for j, h := range c.n.IPs[i].DHCP.Hosts {
			c.dhcpHostName(fmt.Sprintf("network/ip[%d]/dhcp/host[%d]/@name", i+1, j+1), h.Name)
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

// dropFaulty drops names that no host can have, and hosts that have nothing else
// to be known by.
func (d *DHCP) dropFaulty() {
	d.Hosts = slices.DeleteFunc(d.Hosts, func(h DHCPHost) bool {
		return h.MAC == nil && h.ID == "" && !sound(&Network{}, func(c *checker) { c.dhcpHostName("", h.Name) })
	})
	for i := range d.Hosts {
		h := &d.Hosts[i]
		if !sound(&Network{}, func(c *checker) { c.dhcpHostName("", h.Name) }) {
			h.Name = ""
		}
	}
}

// Runnable returns what keeps n from being active, as Faults; nil if nothing
// does. It is Validate without the faults of what Served leaves out.
func (n *Network) Runnable() error {
	served, _ := n.Served()
	return served.Validate()
}
