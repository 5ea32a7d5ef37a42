package netdef

import (
	"fmt"
	"strings"
)

// dns checks <dns>.
func (c *checker) dns() {
	const path = "network/dns"
	d := c.n.DNS
	if d == nil {
		return
	}
	if d.Enable == No && d.records() > 0 {
		c.add(path+"/@enable", "no", "want no forwarders and records where DNS is off")
	}
	for i, f := range d.Forwarders {
		c.forwarder(fmt.Sprintf("%s/forwarder[%d]", path, i+1), f)
	}
	for i, t := range d.TXT {
		c.txt(fmt.Sprintf("%s/txt[%d]", path, i+1), t)
	}
	for i, s := range d.SRV {
		c.srv(fmt.Sprintf("%s/srv[%d]", path, i+1), s)
	}
	for i, h := range d.Hosts {
		c.dnsHost(fmt.Sprintf("%s/host[%d]", path, i+1), h)
	}
}

// forwarder checks an upstream server.
func (c *checker) forwarder(path string, f Forwarder) {
	if f.Domain == "" && !f.Addr.IsValid() {
		c.add(path, "", "want an addr, a domain or both")
	}
	if f.Port != 0 && !f.Addr.IsValid() {
		c.add(path+"/@port", fmt.Sprint(f.Port), "not allowed without addr")
	}
	// "/" and "#" have a meaning of their own to dnsmasq, whose users write
	// domain='*' for everything; a name is a name here.
	if problem := dnsName(f.Domain); f.Domain != "" && problem != "" {
		c.add(path+"/@domain", f.Domain, problem)
	}
}

// txt checks a TXT record.
func (c *checker) txt(path string, t TXT) {
	switch {
	case t.Name == "":
		c.add(path+"/@name", "", "missing, want the name of the record")
	case strings.ContainsAny(t.Name, " ,"):
		c.add(path+"/@name", t.Name, "want a name without blanks and commas")
	}
}

// The characters of SRV services and protocols, and the length of a service:
// virNetworkDNSSrvDefParseXML.
const (
	alphanumeric  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	serviceChars  = alphanumeric + "_-+/*"
	protocolChars = alphanumeric + "-+/"
	maxService    = 482
)

// srv checks an SRV record.
func (c *checker) srv(path string, s SRV) {
	switch {
	case s.Service == "":
		c.add(path+"/@service", "", "missing, want the name of a service")
	case len(s.Service) > maxService:
		c.addf(path+"/@service", s.Service, "the name has %d bytes, want at most %d", len(s.Service), maxService)
	case strings.Trim(s.Service, serviceChars) != "":
		c.add(path+"/@service", s.Service, "want letters, digits and _-+/* only")
	}
	switch {
	case s.Protocol == "":
		c.add(path+"/@protocol", "", "missing, want a protocol like tcp")
	case strings.Trim(s.Protocol, protocolChars) != "":
		c.add(path+"/@protocol", s.Protocol, "want letters, digits and -+/ only")
	}
}

// dnsHost checks an address record.
func (c *checker) dnsHost(path string, h DNSHost) {
	if !h.IP.IsValid() {
		c.add(path+"/@ip", "", "missing, want an IP address")
	}
	if len(h.Hostnames) == 0 {
		c.add(path+"/hostname", "", "missing, want at least one")
	}
	for i, name := range h.Hostnames {
		at := fmt.Sprintf("%s/hostname[%d]", path, i+1)
		if name == "" {
			c.add(at, "", "empty, want a host name")
		} else if problem := dnsName(name); problem != "" {
			c.add(at, name, problem)
		}
	}
}
