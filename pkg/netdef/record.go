package netdef

import (
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Record is a record of the network's DNS, of a name or of all the names below one.
type Record struct {
	Name  string // see RecordName
	Type  string // as in dnsname.Types
	Value string // as dnsname.Data reads it
	TTL   int    // seconds
}

// maxTTL is the longest time for which a record may be kept: RFC 2181 section 8.
const maxTTL = 1<<31 - 1

// wildcard begins the name of a record that all the names below the rest have of which
// nothing else is known (RFC 4592).
const wildcard = "*."

// RecordName returns the whole name of a record. One that does not end with a dot is in the
// network's domain, whether it says so or not.
func (n *Network) RecordName(name string) string {
	whole, absolute := strings.CutSuffix(name, ".")
	if absolute || n.Domain == nil || n.Domain.Name == "" {
		return whole
	}
	domain := strings.TrimSuffix(n.Domain.Name, ".")
	if lower := "." + strings.ToLower(whole); strings.HasSuffix(lower, "."+strings.ToLower(domain)) {
		return whole
	}
	return whole + "." + domain
}

// records decodes all <vnetd:record>.
func (e element) records() []Record {
	var all []Record
	for _, r := range e.children(nsVnetd, "record") {
		all = append(all, Record{
			Name: r.str("name"), Type: r.str("type"), Value: r.str("value"),
			TTL: value(r, "ttl", parseUint[int](0, maxTTL)),
		})
	}
	return all
}

// records prints them.
func (p *printer) records(n *Network) {
	for _, r := range n.Records {
		p.leaf("vnetd:record", attr{"name", r.Name}, attr{"type", r.Type}, attr{"value", r.Value}, num("ttl", r.TTL))
	}
}

// records checks all <vnetd:record>.
func (c *checker) records() {
	const path = "network/vnetd:record"
	switch {
	case len(c.n.Records) == 0:
		return
	case !c.mode.OwnsBridge():
		c.addf(path, "", "not allowed in mode %s: the network serves no DNS", c.mode)
	case c.n.DNS != nil && c.n.DNS.Enable == No:
		c.add(path, "", "not allowed with <dns enable='no'/>")
	}
	types := make(map[string]string) // of the first record of a name
	for i, r := range c.n.Records {
		at := fmt.Sprintf("%s[%d]", path, i+1)
		c.record(at, r)
		name := strings.ToLower(c.n.RecordName(r.Name))
		first, again := types[name]
		if again && (first == "CNAME" || r.Type == "CNAME") {
			c.add(at+"/@name", r.Name, "want nothing else of a name that has a CNAME record")
		}
		if !again {
			types[name] = r.Type
		}
	}
}

// record checks one <vnetd:record>.
func (c *checker) record(path string, r Record) {
	if r.Name == "" {
		c.add(path+"/@name", "", "missing, want the name of the record")
	} else {
		c.dnsRule(path+"/@name", strings.TrimPrefix(c.n.RecordName(r.Name), wildcard), dnsname.Record)
	}
	if _, _, err := dnsname.Data(r.Type, r.Value); err != nil {
		at, what := "/@value", r.Value
		if _, ok := dnsname.Code(r.Type); !ok {
			at, what = "/@type", r.Type
		}
		c.add(path+at, what, err.Error())
	}
}
