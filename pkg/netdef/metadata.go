package netdef

import (
	"slices"
	"strings"
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
	root := parseParts([]byte(xml), map[string]string{prefix: namespace})
	if root == nil || strings.Contains(root.name, ":") {
		return Fragment{}, Faults{{Path: path, Value: xml, Problem: "want one element without a prefix"}}
	}
	root.text = "<" + prefix + ":" + strings.TrimPrefix(root.text, "<")
	root.name = prefix + ":" + root.name
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
	root := parseParts([]byte(n.Metadata[at].XML), nil)
	if root == nil {
		return n.Metadata[at].XML
	}
	prefix, local, _ := strings.Cut(root.name, ":")
	if local != "" {
		declared := " xmlns:" + prefix + `="` + escapeText(namespace, true) + `"`
		root.text = strings.Replace(strings.Replace(root.text, "<"+root.name, "<"+local, 1), declared, "", 1)
		root.name = local
	}
	return root.String()
}

// String returns an element as formatElement does at level 0.
func (p *part) String() string {
	var b strings.Builder
	p.write(&b, 0, true)
	return b.String()
}
