// Package announce has what a document says of routers that are told of a network
// (<vnetd:announce>). It reads and prints the element and finds its faults. It is pure.
package announce

import (
	"errors"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Announce is a <vnetd:announce>: routers are told by BGP that the network is reached by this
// host. What is not said goes by whether it is this host's alone.
type Announce struct {
	subnets, guests string // yes or no; empty: not said
}

// Subnets reports whether the subnets of the network are announced; spans says whether it is on
// other hosts as well.
func (a *Announce) Subnets(spans bool) bool {
	return a != nil && (a.subnets == yes || a.subnets == "" && !spans && a.guests != yes)
}

// Guests reports whether the addresses of guests on this host are announced, each by itself.
func (a *Announce) Guests(spans bool) bool {
	return a != nil && (a.guests == yes || a.guests == "" && spans)
}

const yes, no = "yes", "no"

// Clone returns a copy; nil for nil.
func (a *Announce) Clone() *Announce {
	if a == nil {
		return nil
	}
	c := *a
	return &c
}

// Decode decodes the <vnetd:announce> of a <network>; nil if there is none.
func Decode(e xmldoc.Element) *Announce {
	e, there := e.OnlyIn(schema.NamespaceVnetd, "vnetd:announce")
	if !there {
		return nil
	}
	return &Announce{subnets: xmldoc.Value(e, "subnets", parse), guests: xmldoc.Value(e, "guests", parse)}
}

func parse(text string) (string, error) {
	if text != yes && text != no {
		return "", errors.New("want yes or no")
	}
	return text, nil
}

// Print prints a; nothing for nil.
func Print(p *xmldoc.Printer, a *Announce) {
	if a != nil {
		p.Leaf("vnetd:announce", xmldoc.Opt("subnets", a.subnets), xmldoc.Opt("guests", a.guests))
	}
}

// Context is what of a network its announcements must go with.
type Context struct {
	Mode      string
	Routed    bool // guests are reached by their own addresses: mode route or open
	Spans     bool // the network is on other hosts as well
	Addresses bool // it has an <ip>
}

// Check finds what can't be of a, nil for none.
func Check(c Context, a *Announce, add func(path, value, problem string)) {
	const path = "network/vnetd:announce"
	switch {
	case a == nil:
	case !c.Routed:
		add(path, "", "not allowed in mode "+c.Mode+", whose guests are not reached by their addresses from outside: want route or open")
	case c.Spans && a.subnets == yes:
		add(path+"/@subnets", a.subnets, "not possible with <vnetd:span>: a host is the way to its own guests alone: want guests='yes'")
	case !a.Subnets(c.Spans) && !a.Guests(c.Spans):
		add(path, "", "announces nothing: want subnets='yes' or guests='yes', or no <vnetd:announce>")
	case !c.Addresses:
		add(path, "", "there is no <ip>, of which something could be announced")
	}
}
