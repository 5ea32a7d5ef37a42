// Package xmldoc is XML as libvirt's documents have it: a document as a tree of
// elements that know where they stand, a decoder of them that collects faults, and a
// printer of the same form. It knows no element of any schema.
package xmldoc

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
)

// Bounds of a document. A definition with ten thousand static hosts is under
// one megabyte; nothing in the schema nests deeper than six elements, metadata
// may.
const (
	maxSize       = 4 << 20
	maxDepth      = 64
	maxAttributes = 64
)

// Node is one element of a document.
type Node struct {
	QName   string // as written, with its prefix
	Name    string // local name
	Space   string // namespace URI; "" for none
	Attrs   []*Attribute
	xmlns   map[string]string // prefixes declared here
	Text    []byte            // character data directly inside
	Kids    []*Node
	Parent  *Node
	Raw     []byte // the element's bytes in the source
	begin   int64
	Path    string // set when the decoder has read the element
	KeepRaw bool   // the element is kept as text: don't look inside
}

// Attribute is one attribute of a node, namespace declarations excepted.
type Attribute struct {
	QName, Name, Space, Value string
	Used                      bool
}

// namespace resolves a prefix at n.
func (n *Node) namespace(prefix string) (string, bool) {
	for at := n; at != nil; at = at.Parent {
		if uri, ok := at.xmlns[prefix]; ok {
			return uri, true
		}
	}
	if prefix == "xml" {
		return "http://www.w3.org/XML/1998/namespace", true
	}
	return "", prefix == ""
}

// treeBuilder turns tokens into nodes.
type treeBuilder struct {
	src   []byte
	outer map[string]string // prefixes declared outside of the root
	dec   *xml.Decoder
	root  *Node
	open  *Node // innermost element not closed; nil outside the root
	depth int
	begin int64 // where the current token begins in src
}

// ParseTree reads a whole document within bounds. The error is one Fault with
// the line. Comments and processing instructions are dropped; a document type
// declaration and with it entities of its own are refused.
func ParseTree(src []byte) (*Node, error) { return ParseEntry(src, nil) }

// ParseEntry is ParseTree for a part of a document that declares namespaces, by prefix.
func ParseEntry(src []byte, outer map[string]string) (*Node, error) {
	if len(src) > maxSize {
		return nil, Fault{Problem: fmt.Sprintf("the definition has %d bytes, want at most %d", len(src), maxSize)}
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	b := &treeBuilder{src: src, outer: outer, dec: xml.NewDecoder(bytes.NewReader(src))}
	b.dec.CharsetReader = func(label string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("want UTF-8, not %s", OneLine(label))
	}
	for {
		b.begin = b.dec.InputOffset()
		tok, err := b.dec.RawToken()
		if errors.Is(err, io.EOF) {
			return b.finish()
		}
		if err == nil {
			err = b.add(tok)
		}
		if err != nil {
			return nil, b.fault(err)
		}
	}
}

// finish returns the root, or what is missing at the end of the document.
func (b *treeBuilder) finish() (*Node, error) {
	switch {
	case b.open != nil:
		return nil, b.fault(fmt.Errorf("the document ends inside <%s>, want </%s>", b.open.QName, b.open.QName))
	case b.root == nil:
		return nil, b.fault(errors.New("no element found, want <network>"))
	}
	return b.root, nil
}

// fault returns err as a Fault with the current line.
func (b *treeBuilder) fault(err error) Fault {
	line, _ := b.dec.InputPos()
	text := err.Error()
	if syntax := (*xml.SyntaxError)(nil); errors.As(err, &syntax) {
		line, text = syntax.Line, "not well-formed XML: "+syntax.Msg
	}
	return Fault{Problem: fmt.Sprintf("line %d: %s", line, OneLine(text))}
}

// add takes one token into the tree.
func (b *treeBuilder) add(tok xml.Token) error {
	switch t := tok.(type) {
	case xml.StartElement:
		return b.start(t)
	case xml.EndElement:
		return b.end(t)
	case xml.CharData:
		return b.chars(t)
	case xml.Directive:
		return errors.New("a document type declaration is not accepted, want <network> alone")
	}
	return nil
}

// chars takes character data, which must stand inside the root unless blank.
func (b *treeBuilder) chars(t xml.CharData) error {
	if b.open != nil {
		b.open.Text = append(b.open.Text, t...)
		return nil
	}
	if len(bytes.TrimSpace(t)) > 0 {
		return fmt.Errorf("text outside of the root element: %q", OneLine(string(bytes.TrimSpace(t))))
	}
	return nil
}

// start opens an element below the innermost open one.
func (b *treeBuilder) start(t xml.StartElement) error {
	n := &Node{QName: qualified(t.Name), Name: t.Name.Local, Parent: b.open, begin: b.begin}
	if b.open == nil && b.root != nil {
		return fmt.Errorf("<%s> after the end of <%s>", n.QName, b.root.QName)
	}
	if b.depth++; b.depth > maxDepth {
		return fmt.Errorf("elements nested more than %d deep", maxDepth)
	}
	if b.open == nil {
		n.xmlns = maps.Clone(b.outer)
	}
	if err := n.setAttributes(t.Attr); err != nil {
		return err
	}
	var ok bool
	if n.Space, ok = n.namespace(t.Name.Space); !ok {
		return fmt.Errorf("the namespace prefix of <%s> is not declared", n.QName)
	}
	if b.open == nil {
		b.root = n
	} else {
		b.open.Kids = append(b.open.Kids, n)
	}
	b.open = n
	return nil
}

// end closes the innermost open element.
func (b *treeBuilder) end(t xml.EndElement) error {
	if b.open == nil || b.open.QName != qualified(t.Name) {
		want := "no more end tags"
		if b.open != nil {
			want = "</" + b.open.QName + ">"
		}
		return fmt.Errorf("</%s> does not close anything here, want %s", qualified(t.Name), want)
	}
	b.open.Raw = b.src[b.open.begin:b.dec.InputOffset()]
	b.open = b.open.Parent
	b.depth--
	return nil
}

// setAttributes splits attrs into namespace declarations and attributes.
func (n *Node) setAttributes(attrs []xml.Attr) error {
	if len(attrs) > maxAttributes {
		return fmt.Errorf("<%s> has %d attributes, want at most %d", n.QName, len(attrs), maxAttributes)
	}
	seen := make(map[string]bool, len(attrs))
	for _, a := range attrs {
		qname := qualified(a.Name)
		if seen[qname] {
			return fmt.Errorf("<%s> has the attribute %s twice", n.QName, qname)
		}
		seen[qname] = true
		switch {
		case a.Name.Space == "xmlns" && a.Value == "":
			// Namespaces in XML 1.0 section 5: a prefix can't be undeclared.
			return fmt.Errorf("%s in <%s> is empty, want a namespace", qname, n.QName)
		case a.Name.Space == "xmlns":
			n.declare(a.Name.Local, a.Value)
		case qname == "xmlns":
			n.declare("", a.Value)
		default:
			n.Attrs = append(n.Attrs, &Attribute{QName: qname, Name: a.Name.Local, Space: a.Name.Space, Value: a.Value})
		}
	}
	return n.resolveAttributes()
}

// declare binds a prefix to a namespace at n.
func (n *Node) declare(prefix, uri string) {
	if n.xmlns == nil {
		n.xmlns = make(map[string]string)
	}
	n.xmlns[prefix] = uri
}

// resolveAttributes turns the prefixes of n's attributes into namespaces. An
// attribute without prefix is in no namespace, whatever the default one is.
func (n *Node) resolveAttributes() error {
	for _, a := range n.Attrs {
		if a.Space == "" {
			continue
		}
		uri, ok := n.namespace(a.Space)
		if !ok {
			return fmt.Errorf("the namespace prefix of %s in <%s> is not declared", a.QName, n.QName)
		}
		a.Space = uri
	}
	return nil
}

// qualified returns a name as it was written.
func qualified(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// Unused appends the paths of what no decoder has read below n to list.
func (n *Node) Unused(list []string) []string {
	if n.KeepRaw {
		return list
	}
	for _, a := range n.Attrs {
		if !a.Used {
			list = append(list, n.Path+"/@"+a.QName)
		}
	}
	for _, kid := range n.Kids {
		if kid.Path == "" {
			list = append(list, n.Path+"/"+kid.QName)
			continue
		}
		list = kid.Unused(list)
	}
	return list
}

// Undeclared adds the prefixes used in n and below whose declaration stands at
// outside or above it.
func (n *Node) Undeclared(outside *Node, into map[string]string) {
	names := []string{n.QName}
	for _, a := range n.Attrs {
		names = append(names, a.QName)
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
	for _, kid := range n.Kids {
		kid.Undeclared(outside, into)
	}
}

// declaredBelow reports whether n or a parent of it up to outside, without
// that one, declares prefix.
func (n *Node) declaredBelow(outside *Node, prefix string) bool {
	for at := n; at != outside; at = at.Parent {
		if _, ok := at.xmlns[prefix]; ok {
			return true
		}
	}
	return false
}
