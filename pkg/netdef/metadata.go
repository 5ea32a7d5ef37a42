package netdef

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/netdef/schema"
	"github.com/vnetd/vnetd/pkg/netdef/xmldoc"
)

// SetMetadata makes an element the metadata of a namespace, or removes that if
// xml is empty. The element is put into the namespace, with that prefix. The
// error is of type Faults.
func (n *Network) SetMetadata(namespace, prefix, xml string) error {
	at := slices.IndexFunc(n.Metadata, func(f Fragment) bool { return f.Namespace == namespace })
	if xml == "" {
		if at >= 0 {
			n.Metadata = slices.Delete(n.Metadata, at, at+1)
		}
		return nil
	}
	f, err := newFragment(namespace, prefix, xml)
	if err != nil {
		return err
	}
	if at >= 0 {
		n.Metadata[at] = f
	} else {
		n.Metadata = append(n.Metadata, f)
	}
	return nil
}

// newFragment puts an element into a namespace.
func newFragment(namespace, prefix, xml string) (Fragment, error) {
	const path = "network/metadata"
	if prefix == "" || strings.ContainsAny(prefix, ": \t\n<>&'\"/=") {
		return Fragment{}, Faults{{Path: path, Value: prefix, Problem: "not a prefix for a namespace"}}
	}
	root := xmldoc.ParseParts([]byte(xml), map[string]string{prefix: namespace})
	if root == nil || strings.Contains(root.Name, ":") {
		return Fragment{}, Faults{{Path: path, Value: xml, Problem: "want one element without a prefix"}}
	}
	root.Text = "<" + prefix + ":" + strings.TrimPrefix(root.Text, "<")
	root.Name = prefix + ":" + root.Name
	f := Fragment{Namespace: namespace, XML: root.String()}
	if problem := checkFragment(f); problem != "" {
		return Fragment{}, Faults{{Path: path, Value: xml, Problem: problem}}
	}
	return f, nil
}

// MetadataOf returns the element of a namespace as SetMetadata takes it, without
// its prefix; empty if there is none.
func (n *Network) MetadataOf(namespace string) string {
	at := slices.IndexFunc(n.Metadata, func(f Fragment) bool { return f.Namespace == namespace })
	if at < 0 {
		return ""
	}
	root := xmldoc.ParseParts([]byte(n.Metadata[at].XML), nil)
	if root == nil {
		return n.Metadata[at].XML
	}
	prefix, local, _ := strings.Cut(root.Name, ":")
	if local != "" {
		declared := " xmlns:" + prefix + `="` + xmldoc.EscapeText(namespace, true) + `"`
		root.Text = strings.Replace(strings.Replace(root.Text, "<"+root.Name, "<"+local, 1), declared, "", 1)
		root.Name = local
	}
	return root.String()
}

// decodeMetadata decodes <metadata>: the first child of each namespace. Children
// without a namespace are dropped, as in libvirt.
func decodeMetadata(e xmldoc.Element) []Fragment {
	e, ok := e.First("metadata")
	if !ok {
		return nil
	}
	var list []Fragment
	seen := map[string]bool{"": true}
	for _, kid := range e.Kids {
		if !seen[kid.Space] {
			list = append(list, decodeFragment(e, kid))
		}
		seen[kid.Space] = true
	}
	return list
}

// decodeDnsmasqOptions decodes the raw options of libvirt's dnsmasq namespace.
func decodeDnsmasqOptions(e xmldoc.Element) []string {
	var list []string
	for _, options := range e.Children(schema.NamespaceDnsmasq, "options") {
		for _, option := range options.Children(schema.NamespaceDnsmasq, "option") {
			val, ok := option.Attr("value")
			if !ok {
				option.Fault("@value", "", "missing, want a line of dnsmasq's configuration")
			}
			list = append(list, val)
		}
	}
	return list
}

// decodeFragment takes a child as text, in libvirt's form. Prefixes that it uses and its parents
// declare are declared in it.
func decodeFragment(e xmldoc.Element, n *xmldoc.Node) Fragment {
	e.At(n, e.Path+"/"+n.QName)
	n.KeepRaw = true
	missing := make(map[string]string)
	n.Undeclared(n.Parent, missing)
	return Fragment{Namespace: n.Space, XML: xmldoc.FormatElement(string(n.Raw), missing, 0)}
}

// checkFragment returns what keeps f from being printed and read back, "" if
// nothing does.
func checkFragment(f Fragment) string {
	root, err := xmldoc.ParseTree([]byte(f.XML))
	switch {
	case err != nil:
		return err.Error()
	case root.Space != f.Namespace || f.Namespace == "":
		return "want an element of the namespace '" + f.Namespace + "'"
	}
	return ""
}
