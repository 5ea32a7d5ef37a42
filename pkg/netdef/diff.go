package netdef

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
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
func (n *Network) tree() *node {
	root, err := parseTree(n.XML())
	if err != nil {
		return nil // of more than the bounds of a document: nothing can be told
	}
	return root
}

// diffNode appends how two elements of that path differ.
func diffNode(all []Change, path string, old, new *node) []Change {
	if bytes.Equal(old.raw, new.raw) {
		return all // both are of the same printer
	}
	if was, is := old.start(), new.start(); was != is {
		all = append(all, Change{path, was, is})
	}
	var done []string
	for _, kid := range slices.Concat(new.kids, old.kids) {
		if slices.Contains(done, kid.qname) {
			continue
		}
		done = append(done, kid.qname)
		all = diffKids(all, path+"/"+kid.qname, old.named(kid.qname), new.named(kid.qname))
	}
	return all
}

// diffKids appends how the elements of one name differ.
func diffKids(all []Change, path string, old, new []*node) []Change {
	numbered := func(i int, among []*node) string {
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
			all = append(all, Change{numbered(i, new), "", kid.start()})
		}
	}
	for i, kid := range old {
		if left[kid] {
			all = append(all, Change{numbered(i, old), kid.start(), ""})
		}
	}
	return all
}

// pair finds for each of the new elements the old one that it was, nil for none:
// the same one, one that is known by the same, or the only one that is left. It
// returns which of the old ones are left then, too.
func pair(old, new []*node) (partners []*node, left map[*node]bool) {
	partners, left = make([]*node, len(new)), make(map[*node]bool)
	for _, kid := range old {
		left[kid] = true
	}
	match := func(key func(*node) string) {
		known := make(map[string][]*node)
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
	match(func(n *node) string { return string(n.raw) })
	match((*node).key)
	free := 0
	for _, partner := range partners {
		if partner == nil {
			free++
		}
	}
	if len(left) == 1 && free == 1 {
		match(func(*node) string { return "" })
	}
	return partners, left
}

// key is what an element is known by among those of its name: the first of these
// attributes that it has, or its being there.
func (n *node) key() string {
	for _, name := range []string{"mac", "id", "name", "address", "ip", "start", "dev", "service", "domain", "value"} {
		for _, a := range n.attrs {
			if a.qname == name {
				return name + "=" + a.value
			}
		}
	}
	return n.start()
}

// named lists the elements of that name in n.
func (n *node) named(qname string) []*node {
	return slices.DeleteFunc(slices.Clone(n.kids), func(kid *node) bool { return kid.qname != qname })
}

// start is n's start tag, with its text where it has some, on one line.
func (n *node) start() string {
	p := &printer{}
	attrs := make([]attr, 0, len(n.attrs))
	for _, a := range n.attrs {
		attrs = append(attrs, attr{a.qname, a.value})
	}
	p.tag(n.qname, attrs)
	text := strings.TrimSpace(string(n.text))
	switch {
	case text != "":
		p.buf.WriteString(">" + oneLine(text) + "</" + n.qname + ">")
	case len(n.kids) == 0:
		p.buf.WriteString("/>")
	default:
		p.buf.WriteString(">")
	}
	return p.buf.String()
}
