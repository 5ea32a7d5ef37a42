package policy

import (
	"cmp"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// DecodePeers decodes all <vnetd:peer> of a <network>.
func DecodePeers(e xmldoc.Element) (all []Peer) {
	for _, p := range e.Children(schema.NamespaceVnetd, "peer") {
		need(p, "network", "the name of another network")
		all = append(all, Peer{
			Network:   p.Str("network"),
			Services:  xmldoc.Value(p, "ports", ParseServices),
			Direction: cmp.Or(xmldoc.Value(p, "direction", parseWord(Out, In, Both)), Both),
		})
	}
	return all
}

// need adds a fault where an attribute is missing.
func need(e xmldoc.Element, name, want string) {
	if _, said := e.Attr(name); !said {
		e.Fault("@"+name, "", "missing, want "+want)
	}
}

// DecodeRules decodes the <vnetd:rules> of a <network>. Of several the first counts, and the
// others are faults.
func DecodeRules(e xmldoc.Element) (r Rules) {
	e, there := e.OnlyIn(schema.NamespaceVnetd, "vnetd:rules")
	if !there {
		return r
	}
	action := parseWord(Allow, Reject, Drop)
	r.Egress, r.Ingress = xmldoc.Value(e, "egress", action), xmldoc.Value(e, "ingress", action)
	for _, s := range e.Children(schema.NamespaceVnetd, "set") {
		set := Set{Name: s.Str("name")}
		members, err := parseRemotes(string(s.Text))
		if err != nil {
			s.Faults.Add(s.Path, strings.TrimSpace(string(s.Text)), err.Error())
		}
		set.Members = members
		r.Sets = append(r.Sets, set)
	}
	for _, rule := range e.Children(schema.NamespaceVnetd, "rule") {
		r.Rules = append(r.Rules, decodeRule(rule))
	}
	return r
}

// decodeRule decodes one <vnetd:rule>.
func decodeRule(e xmldoc.Element) Rule {
	need(e, "direction", "egress or ingress")
	need(e, "action", "allow, reject or drop")
	r := Rule{
		Direction: xmldoc.Value(e, "direction", parseWord(Egress, Ingress)),
		Action:    xmldoc.Value(e, "action", parseWord(Allow, Reject, Drop)),
		Protocol:  xmldoc.Value(e, "proto", parseProtocol),
		Ports:     xmldoc.Value(e, "ports", parsePortList),
		Log:       xmldoc.Value(e, "log", parseWord("yes", "no")) == "yes",
	}
	own, other := "to", "from"
	if r.Direction == Ingress {
		own, other = other, own
	}
	r.Remotes = xmldoc.Value(e, own, parseRemotes)
	if val, said := e.Attr(other); said {
		e.Fault("@"+other, val, "not allowed at "+cmp.Or(r.Direction, Egress)+": want "+own)
	}
	return r
}

// PrintPeers prints <vnetd:peer>.
func PrintPeers(p *xmldoc.Printer, all []Peer) {
	for i := range all {
		peer := &all[i]
		p.Leaf("vnetd:peer", xmldoc.Always("network", peer.Network), xmldoc.Opt("ports", join(peer.Services)), xmldoc.Always("direction", peer.Direction))
	}
}

// PrintRules prints <vnetd:rules>; nothing where nothing is said.
func PrintRules(p *xmldoc.Printer, r *Rules) {
	if r.IsZero() {
		return
	}
	p.Elem("vnetd:rules", func() {
		for i := range r.Sets {
			printSet(p, &r.Sets[i])
		}
		for i := range r.Rules {
			printRule(p, &r.Rules[i])
		}
	}, xmldoc.Opt("egress", r.Egress), xmldoc.Opt("ingress", r.Ingress))
}

func printSet(p *xmldoc.Printer, s *Set) {
	p.Tag("vnetd:set", []xmldoc.Attr{xmldoc.Always("name", s.Name)})
	p.Buf.WriteString(">" + join(s.Members) + "</vnetd:set>\n") // of no character that XML has a use for
}

func printRule(p *xmldoc.Printer, r *Rule) {
	p.Leaf("vnetd:rule", xmldoc.Always("direction", r.Direction), xmldoc.Always("action", r.Action), xmldoc.Opt("proto", r.Protocol),
		xmldoc.Opt(preposition(r.Direction), join(r.Remotes)), xmldoc.Opt("ports", join(r.Ports)), xmldoc.Flag("log", r.Log))
}
