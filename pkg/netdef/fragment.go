package netdef

import "strings"

// nsDnsmasq is libvirt's namespace of raw dnsmasq options.
const nsDnsmasq = "http://libvirt.org/schemas/network/dnsmasq/1.0"

// metadata decodes <metadata>: the first child of each namespace. Children
// without a namespace are dropped, as in libvirt.
func (e element) metadata() []Fragment {
	e, ok := e.first("metadata")
	if !ok {
		return nil
	}
	var list []Fragment
	seen := map[string]bool{"": true}
	for _, kid := range e.kids {
		if !seen[kid.space] {
			list = append(list, e.fragment(kid))
		}
		seen[kid.space] = true
	}
	return list
}

// dnsmasqOptions decodes the raw options of libvirt's dnsmasq namespace.
func (e element) dnsmasqOptions() []string {
	var list []string
	for _, options := range e.children(nsDnsmasq, "options") {
		for _, option := range options.children(nsDnsmasq, "option") {
			val, ok := option.attr("value")
			if !ok {
				option.fault("@value", "", "missing, want a line of dnsmasq's configuration")
			}
			list = append(list, val)
		}
	}
	return list
}

// fragment takes a child as text, in libvirt's form. Prefixes that it uses and its parents
// declare are declared in it.
func (e element) fragment(n *node) Fragment {
	e.at(n, e.path+"/"+n.qname)
	n.keepRaw = true
	missing := make(map[string]string)
	n.undeclared(n.parent, missing)
	return Fragment{Namespace: n.space, XML: formatElement(string(n.raw), missing, 0)}
}

// undeclared adds the prefixes used in n and below whose declaration stands at
// outside or above it.
func (n *node) undeclared(outside *node, into map[string]string) {
	names := []string{n.qname}
	for _, a := range n.attrs {
		names = append(names, a.qname)
	}
	for _, name := range names {
		prefix, _, ok := strings.Cut(name, ":")
		if !ok || n.declaredBelow(outside, prefix) {
			continue
		}
		if uri, ok := outside.namespace(prefix); ok && prefix != "xml" {
			into[prefix] = uri
		}
	}
	for _, kid := range n.kids {
		kid.undeclared(outside, into)
	}
}

// declaredBelow reports whether n or a parent of it up to outside, without
// that one, declares prefix.
func (n *node) declaredBelow(outside *node, prefix string) bool {
	for at := n; at != outside; at = at.parent {
		if _, ok := at.xmlns[prefix]; ok {
			return true
		}
	}
	return false
}

// checkFragment returns what keeps f from being printed and read back, "" if
// nothing does.
func checkFragment(f Fragment) string {
	root, err := parseTree([]byte(f.XML))
	switch {
	case err != nil:
		return err.Error()
	case root.space != f.Namespace || f.Namespace == "":
		return "want an element of the namespace '" + f.Namespace + "'"
	}
	return ""
}
