package netdef

import (
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// checkDNS checks <dns>.
func checkDNS(c *checker) {
	const path = "network/dns"
	d := c.n.DNS
	if d == nil {
		return
	}
	if d.Enable == No && d.records() > 0 {
		c.Add(path+"/@enable", "no", "want no forwarders and records where DNS is off")
	}
	for i, f := range d.Forwarders {
		checkForwarder(c, fmt.Sprintf("%s/forwarder[%d]", path, i+1), f)
	}
	for i, t := range d.TXT {
		checkTXT(c, fmt.Sprintf("%s/txt[%d]", path, i+1), t)
	}
	for i, s := range d.SRV {
		checkSRV(c, fmt.Sprintf("%s/srv[%d]", path, i+1), s)
	}
	for i, h := range d.Hosts {
		checkDNSHost(c, fmt.Sprintf("%s/host[%d]", path, i+1), h)
	}
}

// checkForwarder checks an upstream server.
func checkForwarder(c *checker, path string, f Forwarder) {
	if f.Domain == "" && !f.Addr.IsValid() {
		c.Add(path, "", "want an addr, a domain or both")
	}
	if f.Port != 0 && !f.Addr.IsValid() {
		c.Add(path+"/@port", fmt.Sprint(f.Port), "not allowed without addr")
	}
	// "/" and "#" have a meaning of their own to dnsmasq, whose users write
	// domain='*' for everything; a name is a name here.
	if f.Domain != "" {
		c.dnsRule(path+"/@domain", f.Domain, dnsname.Host)
	}
}

// checkTXT checks a TXT record.
func checkTXT(c *checker, path string, t TXT) {
	switch {
	case t.Name == "":
		c.Add(path+"/@name", "", "missing, want the name of the record")
	default:
		c.dnsRule(path+"/@name", t.Name, dnsname.Record)
	}
	if err := dnsname.Text(t.Value); err != nil {
		c.Add(path+"/@value", t.Value, err.Error())
	}
}

// The characters of SRV services and protocols: virNetworkDNSSrvDefParseXML.
const (
	alphanumeric  = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	serviceChars  = alphanumeric + "_-+/*"
	protocolChars = alphanumeric + "-+/"
)

// checkSRV checks an SRV record: its parts, and where those are right the name that
// they make together.
func checkSRV(c *checker, path string, s SRV) {
	before := len(c.Faults)
	checkSRVLabel(c, path+"/@service", s.Service, "missing, want the name of a service", "want letters, digits and _-+/* only", serviceChars)
	checkSRVLabel(c, path+"/@protocol", s.Protocol, "missing, want a protocol like tcp", "want letters, digits and -+/ only", protocolChars)
	domain := s.Domain
	if domain != "" {
		c.dnsRule(path+"/@domain", domain, dnsname.Record)
	} else if c.n.Domain != nil {
		domain = c.n.Domain.Name
	}
	if s.Target != "" && s.Target != "." {
		c.dnsRule(path+"/@target", s.Target, dnsname.Record)
	}
	if len(c.Faults) > before {
		return
	}
	c.dnsRule(path, "_"+s.Service+"._"+s.Protocol+"."+domain, dnsname.Record)
}

// checkSRVLabel checks the service or the protocol of an SRV record.
func checkSRVLabel(c *checker, path, name, missing, wrong, chars string) {
	if name == "" {
		c.Add(path, "", missing)
	} else if err := dnsname.Service(name); err != nil {
		c.Add(path, name, err.Error())
	} else if strings.Trim(name, chars) != "" {
		c.Add(path, name, wrong)
	}
}

// checkDNSHost checks an address record.
func checkDNSHost(c *checker, path string, h DNSHost) {
	if !h.IP.IsValid() {
		c.Add(path+"/@ip", "", "missing, want an IP address")
	}
	if len(h.Hostnames) == 0 {
		c.Add(path+"/hostname", "", "missing, want at least one")
	}
	for i, name := range h.Hostnames {
		checkHostname(c, fmt.Sprintf("%s/hostname[%d]", path, i+1), name)
	}
}

// checkHostname checks one <hostname>.
func checkHostname(c *checker, path, name string) {
	if name == "" {
		c.Add(path, "", "empty, want a host name")
		return
	}
	c.dnsRule(path, name, dnsname.Record)
}
