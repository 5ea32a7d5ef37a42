package netdef

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
)

// Bounds of a document. A definition with ten thousand static hosts is under
// one megabyte; nothing in the schema nests deeper than six elements, metadata
// may.
const (
	maxSize       = 4 << 20
	maxDepth      = 64
	maxAttributes = 64
)

// node is one element of a document.
type node struct {
	qname   string // as written, with its prefix
	name    string // local name
	space   string // namespace URI; "" for none
	attrs   []*attribute
	xmlns   map[string]string // prefixes declared here
	text    []byte            // character data directly inside
	kids    []*node
	parent  *node
	raw     []byte // the element's bytes in the source
	begin   int64
	path    string // set when the decoder has read the element
	keepRaw bool   // the element is kept as text: don't look inside
}

// attribute is one attribute of a node, namespace declarations excepted.
type attribute struct {
	qname, name, space, value string
	used                      bool
}

// namespace resolves a prefix at n.
func (n *node) namespace(prefix string) (string, bool) {
	for at := n; at != nil; at = at.parent {
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
	dec   *xml.Decoder
	root  *node
	open  *node // innermost element not closed; nil outside the root
	depth int
	begin int64 // where the current token begins in src
}

// parseTree reads a whole document within bounds. The error is one Fault with
// the line. Comments and processing instructions are dropped; a document type
// declaration and with it entities of its own are refused.
func parseTree(src []byte) (*node, error) {
	if len(src) > maxSize {
		return nil, Fault{Problem: fmt.Sprintf("the definition has %d bytes, want at most %d", len(src), maxSize)}
	}
	src = bytes.TrimPrefix(src, []byte("\xef\xbb\xbf"))
	b := &treeBuilder{src: src, dec: xml.NewDecoder(bytes.NewReader(src))}
	b.dec.CharsetReader = func(label string, _ io.Reader) (io.Reader, error) {
		return nil, fmt.Errorf("want UTF-8, not %s", oneLine(label))
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
func (b *treeBuilder) finish() (*node, error) {
	switch {
	case b.open != nil:
		return nil, b.fault(fmt.Errorf("the document ends inside <%s>, want </%s>", b.open.qname, b.open.qname))
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
	return Fault{Problem: fmt.Sprintf("line %d: %s", line, oneLine(text))}
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
		b.open.text = append(b.open.text, t...)
		return nil
	}
	if len(bytes.TrimSpace(t)) > 0 {
		return fmt.Errorf("text outside of the root element: %q", oneLine(string(bytes.TrimSpace(t))))
	}
	return nil
}

// start opens an element below the innermost open one.
func (b *treeBuilder) start(t xml.StartElement) error {
	n := &node{qname: qualified(t.Name), name: t.Name.Local, parent: b.open, begin: b.begin}
	if b.open == nil && b.root != nil {
		return fmt.Errorf("<%s> after the end of <%s>", n.qname, b.root.qname)
	}
	if b.depth++; b.depth > maxDepth {
		return fmt.Errorf("elements nested more than %d deep", maxDepth)
	}
	if err := n.setAttributes(t.Attr); err != nil {
		return err
	}
	var ok bool
	if n.space, ok = n.namespace(t.Name.Space); !ok {
		return fmt.Errorf("the namespace prefix of <%s> is not declared", n.qname)
	}
	if b.open == nil {
		b.root = n
	} else {
		b.open.kids = append(b.open.kids, n)
	}
	b.open = n
	return nil
}

// end closes the innermost open element.
func (b *treeBuilder) end(t xml.EndElement) error {
	if b.open == nil || b.open.qname != qualified(t.Name) {
		want := "no more end tags"
		if b.open != nil {
			want = "</" + b.open.qname + ">"
		}
		return fmt.Errorf("</%s> does not close anything here, want %s", qualified(t.Name), want)
	}
	b.open.raw = b.src[b.open.begin:b.dec.InputOffset()]
	b.open = b.open.parent
	b.depth--
	return nil
}

// setAttributes splits attrs into namespace declarations and attributes.
func (n *node) setAttributes(attrs []xml.Attr) error {
	if len(attrs) > maxAttributes {
		return fmt.Errorf("<%s> has %d attributes, want at most %d", n.qname, len(attrs), maxAttributes)
	}
	seen := make(map[string]bool, len(attrs))
	for _, a := range attrs {
		qname := qualified(a.Name)
		if seen[qname] {
			return fmt.Errorf("<%s> has the attribute %s twice", n.qname, qname)
		}
		seen[qname] = true
		switch {
		case a.Name.Space == "xmlns" && a.Value == "":
			// Namespaces in XML 1.0 section 5: a prefix can't be undeclared.
			return fmt.Errorf("%s in <%s> is empty, want a namespace", qname, n.qname)
		case a.Name.Space == "xmlns":
			n.declare(a.Name.Local, a.Value)
		case qname == "xmlns":
			n.declare("", a.Value)
		default:
			n.attrs = append(n.attrs, &attribute{qname: qname, name: a.Name.Local, space: a.Name.Space, value: a.Value})
		}
	}
	return n.resolveAttributes()
}

// declare binds a prefix to a namespace at n.
func (n *node) declare(prefix, uri string) {
	if n.xmlns == nil {
		n.xmlns = make(map[string]string)
	}
	n.xmlns[prefix] = uri
}

// resolveAttributes turns the prefixes of n's attributes into namespaces. An
// attribute without prefix is in no namespace, whatever the default one is.
func (n *node) resolveAttributes() error {
	for _, a := range n.attrs {
		if a.space == "" {
			continue
		}
		uri, ok := n.namespace(a.space)
		if !ok {
			return fmt.Errorf("the namespace prefix of %s in <%s> is not declared", a.qname, n.qname)
		}
		a.space = uri
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

// unused appends the paths of what no decoder has read below n to list.
func (n *node) unused(list []string) []string {
	if n.keepRaw {
		return list
	}
	for _, a := range n.attrs {
		if !a.used {
			list = append(list, n.path+"/@"+a.qname)
		}
	}
	for _, kid := range n.kids {
		if kid.path == "" {
			list = append(list, n.path+"/"+kid.qname)
			continue
		}
		list = kid.unused(list)
	}
	return list
}
