package netdef

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// Change is one element that two documents have otherwise.
type Change struct {
	Path string // as in Fault: network/ip[2]/dhcp/range; numbered where there are several
	Old  string // the element as it was, what is in it left out; "" if it is new
	New  string // as it is; "" if it is gone
}

// String renders c on one line.
func (c Change) String() string {
	switch {
	case c.Old == "":
		return fmt.Sprintf("%s: %s is new", c.Path, c.New)
	case c.New == "":
		return fmt.Sprintf("%s: %s is gone", c.Path, c.Old)
	}
	return fmt.Sprintf("%s: %s becomes %s", c.Path, c.Old, c.New)
}

// Diff lists what differs between two networks, in the order of the new one, by
// elements: an element that both have, be it with other attributes, is one change,
// and so is one that is new or gone with all that is in it. It is empty exactly
// where both print the same elements; their order counts for nothing.
func Diff(old, new *Network) []Change {
	before, after := old.tree(), new.tree()
	if before == nil || after == nil {
		return nil
	}
	return diffNode(nil, "network", before, after)
}

// tree is n's document as elements.
func (n *Network) tree() *xmldoc.Node {
	root, err := xmldoc.ParseTree(n.XML())
	if err != nil {
		return nil // of more than the bounds of a document: nothing can be told
	}
	return root
}

// diffNode appends how two elements of that path differ.
func diffNode(all []Change, path string, old, new *xmldoc.Node) []Change {
	if bytes.Equal(old.Raw, new.Raw) {
		return all // both are of the same printer
	}
	if was, is := startTagOf(old), startTagOf(new); was != is {
		all = append(all, Change{path, was, is})
	}
	var done []string
	for _, kid := range slices.Concat(new.Kids, old.Kids) {
		if slices.Contains(done, kid.QName) {
			continue
		}
		done = append(done, kid.QName)
		all = diffKids(all, path+"/"+kid.QName, named(old, kid.QName), named(new, kid.QName))
	}
	return all
}

// diffKids appends how the elements of one name differ.
func diffKids(all []Change, path string, old, new []*xmldoc.Node) []Change {
	numbered := func(i int, among []*xmldoc.Node) string {
		if max(len(old), len(new)) == 1 {
			return path
		}
		return fmt.Sprintf("%s[%d]", path, 1+i%len(among))
	}
	partners, left := pair(old, new)
	for i, kid := range new {
		if partners[i] != nil {
			all = diffNode(all, numbered(i, new), partners[i], kid)
		} else {
			all = append(all, Change{numbered(i, new), "", startTagOf(kid)})
		}
	}
	for i, kid := range old {
		if left[kid] {
			all = append(all, Change{numbered(i, old), startTagOf(kid), ""})
		}
	}
	return all
}

// pair finds for each of the new elements the old one that it was, nil for none:
// the same one, one that is known by the same, or the only one that is left. It
// returns which of the old ones are left then, too.
func pair(old, new []*xmldoc.Node) (partners []*xmldoc.Node, left map[*xmldoc.Node]bool) {
	partners, left = make([]*xmldoc.Node, len(new)), make(map[*xmldoc.Node]bool)
	for _, kid := range old {
		left[kid] = true
	}
	match := func(key func(*xmldoc.Node) string) {
		known := make(map[string][]*xmldoc.Node)
		for _, kid := range old {
			if left[kid] {
				known[key(kid)] = append(known[key(kid)], kid)
			}
		}
		for i, kid := range new {
			if partners[i] != nil {
				continue
			}
			if same := known[key(kid)]; len(same) > 0 {
				partners[i], known[key(kid)] = same[0], same[1:]
				delete(left, same[0])
			}
		}
	}
	match(func(n *xmldoc.Node) string { return string(n.Raw) })
	match(keyOf)
	free := 0
	for _, partner := range partners {
		if partner == nil {
			free++
		}
	}
	if len(left) == 1 && free == 1 {
		match(func(*xmldoc.Node) string { return "" })
	}
	return partners, left
}

// keyOf is what an element is known by among those of its name: the first of these
// attributes that it has, or its being there.
func keyOf(n *xmldoc.Node) string {
	for _, name := range []string{"mac", "id", "name", "address", "ip", "start", "dev", "service", "domain", "value"} {
		for _, a := range n.Attrs {
			if a.QName == name {
				return name + "=" + a.Value
			}
		}
	}
	return startTagOf(n)
}

// named lists the elements of that name in n.
func named(n *xmldoc.Node, qname string) []*xmldoc.Node {
	return slices.DeleteFunc(slices.Clone(n.Kids), func(kid *xmldoc.Node) bool { return kid.QName != qname })
}

// startTagOf is n's start tag, with its text where it has some, on one line.
func startTagOf(n *xmldoc.Node) string {
	p := &xmldoc.Printer{}
	attrs := make([]xmldoc.Attr, 0, len(n.Attrs))
	for _, a := range n.Attrs {
		attrs = append(attrs, xmldoc.Always(a.QName, a.Value))
	}
	p.Tag(n.QName, attrs)
	text := strings.TrimSpace(string(n.Text))
	switch {
	case text != "":
		p.Buf.WriteString(">" + xmldoc.OneLine(text) + "</" + n.QName + ">")
	case len(n.Kids) == 0:
		p.Buf.WriteString("/>")
	default:
		p.Buf.WriteString(">")
	}
	return p.Buf.String()
}
