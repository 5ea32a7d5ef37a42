// Package schema is libvirt's schema of a <network> document, network.rng, as a
// table, and the check of a document against it, which clients ask for when they
// define one.
package schema

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// nsVnetd is the namespace of what a network can have here and not in libvirt,
// which drops it. Unlike what is unknown in the schema, what is unknown in this
// namespace is a fault: it was written for vnetd, and would have no effect.
const NamespaceVnetd = "urn:vnetd:network:1"

// nsDnsmasq is libvirt's namespace of raw dnsmasq options.
const NamespaceDnsmasq = "http://libvirt.org/schemas/network/dnsmasq/1.0"

// shape is what libvirt's schema (network.rng) lets an element have.
type shape struct {
	attrs map[string]attrShape
	kids  map[string]kid
	text  *lexical                              // nil: none but blanks
	rule  func(n *xmldoc.Node) (string, string) // what no table says: where, and what is wrong; "" for nothing
}

// attrShape is an attribute.
type attrShape struct {
	lexical
	required bool
}

// kid is a child element.
type kid struct {
	shape
	many, required bool
	any            bool // elements of any kind may stand in it
}

// schema is networkShape, made once.
var schema = sync.OnceValue(networkShape)

// Check returns what of a <network> document is not as libvirt's schema has
// it, as Faults, nil if nothing is; vnetd's own elements may stand in it. A document
// that is no XML is one fault, as with Parse. What the schema accepts need not work:
// see Validate.
func Check(src []byte) error {
	root, err := xmldoc.ParseTree(src)
	if err != nil {
		return xmldoc.Faults{xmldoc.AsFault(err)}
	}
	if root.Name != "network" || root.Space != "" {
		return xmldoc.Faults{{Problem: "the document is a <" + xmldoc.OneLine(root.QName) + ">, want <network>"}}
	}
	var faults xmldoc.Faults
	schema().check(root, "network", &faults)
	return faults.Err()
}

// check adds what is wrong with n, which stands at path.
func (s shape) check(n *xmldoc.Node, path string, faults *xmldoc.Faults) {
	s.checkAttributes(n, path, faults)
	s.checkText(n, path, faults)
	s.checkKids(n, path, faults)
	if s.rule != nil {
		if at, problem := s.rule(n); problem != "" {
			faults.Add(path+at, "", problem)
		}
	}
}

// checkAttributes checks those of n, and which of them are missing.
func (s shape) checkAttributes(n *xmldoc.Node, path string, faults *xmldoc.Faults) {
	has := make(map[string]bool)
	for _, a := range n.Attrs {
		at := path + "/@" + a.QName
		v, known := s.attrs[a.Name]
		switch has[a.Name] = true; {
		case a.Space == NamespaceVnetd:
		case !known || a.Space != "":
			faults.Add(at, "", "not in the schema")
		case !v.ok(a.Value):
			faults.Add(at, a.Value, "want "+v.want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.attrs)) {
		if s.attrs[name].required && !has[name] {
			faults.Add(path+"/@"+name, "", "missing, want "+s.attrs[name].want)
		}
	}
}

// checkText checks what stands in n beside its children.
func (s shape) checkText(n *xmldoc.Node, path string, faults *xmldoc.Faults) {
	text := string(n.Text)
	switch {
	case s.text != nil && !s.text.ok(text):
		faults.Add(path, text, "want "+s.text.want)
	case s.text == nil && len(bytes.TrimSpace(n.Text)) > 0:
		faults.Add(path, strings.TrimSpace(text), "want no text here")
	}
}

// checkKids checks the children of n, and which of them are missing.
func (s shape) checkKids(n *xmldoc.Node, path string, faults *xmldoc.Faults) {
	count := make(map[string]int)
	for _, child := range n.Kids {
		key := child.Name
		if child.Space != "" {
			key = child.Space + " " + child.Name
		}
		k, known := s.kids[key]
		at := path + "/" + child.QName
		if count[key]++; k.many {
			at = fmt.Sprintf("%s[%d]", at, count[key])
		}
		switch {
		case child.Space == NamespaceVnetd:
		case !known:
			faults.Add(at, "", "not in the schema")
		case count[key] > 1 && !k.many:
			faults.Addf(at, "", "only one <%s> is allowed", child.QName)
		case k.any:
			shape{}.checkText(child, at, faults)
		default:
			k.check(child, at, faults)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.kids)) {
		if s.kids[name].required && count[name] == 0 {
			faults.Add(path+"/"+name, "", "missing")
		}
	}
}
