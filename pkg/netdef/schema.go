package netdef

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// shape is what libvirt's schema (network.rng) lets an element have.
type shape struct {
	attrs map[string]attrShape
	kids  map[string]kid
	text  *lexical                       // nil: none but blanks
	rule  func(n *node) (string, string) // what no table says: where, and what is wrong; "" for nothing
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

// CheckSchema returns what of a <network> document is not as libvirt's schema has
// it, as Faults, nil if nothing is; vnetd's own elements may stand in it. A document
// that is no XML is one fault, as with Parse. What the schema accepts need not work:
// see Validate.
func CheckSchema(src []byte) error {
	root, err := parseTree(src)
	if err != nil {
		return Faults{asFault(err)}
	}
	if root.name != "network" || root.space != "" {
		return Faults{{Problem: "the document is a <" + oneLine(root.qname) + ">, want <network>"}}
	}
	var faults Faults
	schema().check(root, "network", &faults)
	return faults.err()
}

// check adds what is wrong with n, which stands at path.
func (s shape) check(n *node, path string, faults *Faults) {
	s.checkAttributes(n, path, faults)
	s.checkText(n, path, faults)
	s.checkKids(n, path, faults)
	if s.rule != nil {
		if at, problem := s.rule(n); problem != "" {
			faults.add(path+at, "", problem)
		}
	}
}

// checkAttributes checks those of n, and which of them are missing.
func (s shape) checkAttributes(n *node, path string, faults *Faults) {
	has := make(map[string]bool)
	for _, a := range n.attrs {
		at := path + "/@" + a.qname
		v, known := s.attrs[a.name]
		switch has[a.name] = true; {
		case a.space == nsVnetd:
		case !known || a.space != "":
			faults.add(at, "", "not in the schema")
		case !v.ok(a.value):
			faults.add(at, a.value, "want "+v.want)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.attrs)) {
		if s.attrs[name].required && !has[name] {
			faults.add(path+"/@"+name, "", "missing, want "+s.attrs[name].want)
		}
	}
}

// checkText checks what stands in n beside its children.
func (s shape) checkText(n *node, path string, faults *Faults) {
	text := string(n.text)
	switch {
	case s.text != nil && !s.text.ok(text):
		faults.add(path, text, "want "+s.text.want)
	case s.text == nil && len(bytes.TrimSpace(n.text)) > 0:
		faults.add(path, strings.TrimSpace(text), "want no text here")
	}
}

// checkKids checks the children of n, and which of them are missing.
func (s shape) checkKids(n *node, path string, faults *Faults) {
	count := make(map[string]int)
	for _, child := range n.kids {
		key := child.name
		if child.space != "" {
			key = child.space + " " + child.name
		}
		k, known := s.kids[key]
		at := path + "/" + child.qname
		if count[key]++; k.many {
			at = fmt.Sprintf("%s[%d]", at, count[key])
		}
		switch {
		case child.space == nsVnetd:
		case !known:
			faults.add(at, "", "not in the schema")
		case count[key] > 1 && !k.many:
			faults.addf(at, "", "only one <%s> is allowed", child.qname)
		case k.any:
			shape{}.checkText(child, at, faults)
		default:
			k.check(child, at, faults)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.kids)) {
		if s.kids[name].required && count[name] == 0 {
			faults.add(path+"/"+name, "", "missing")
		}
	}
}
