package xmldoc

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Printer writes elements in the form of libvirt's virBuffer: two spaces per
// level, attributes in single quotes.
type Printer struct {
	Buf    bytes.Buffer
	Indent int
}

// Attr is an attribute to print; one without a name is left out.
type Attr struct{ name, value string }

// Always is an attribute that is there whatever its value.
func Always(name, value string) Attr { return Attr{name, value} }

// Opt is an attribute that is left out when its value is the empty string.
func Opt[T ~string](name string, value T) Attr {
	if value == "" {
		return Attr{}
	}
	return Attr{name, string(value)}
}

// Num is an attribute that is left out when its value is 0.
func Num[T int | uint16 | uint32 | uint64](name string, value T) Attr {
	if value == 0 {
		return Attr{}
	}
	return Attr{name, fmt.Sprint(value)}
}

// Addr is an attribute that is left out when its value is the zero address.
func Addr(name string, value netip.Addr) Attr {
	if !value.IsValid() {
		return Attr{}
	}
	return Attr{name, value.String()}
}

// Flag is an attribute that is yes or left out.
func Flag(name string, value bool) Attr {
	if !value {
		return Attr{}
	}
	return Attr{name, "yes"}
}

// Tag begins a line with "<name" and the attributes.
func (p *Printer) Tag(name string, attrs []Attr) {
	p.Margin()
	p.Buf.WriteString("<" + name)
	for _, a := range attrs {
		if a.name != "" {
			p.Buf.WriteString(" " + a.name + "='" + escape(a.value, true) + "'")
		}
	}
}

// Margin writes the indentation of a line.
func (p *Printer) Margin() {
	for range p.Indent {
		p.Buf.WriteString("  ")
	}
}

// Leaf writes an element without content.
func (p *Printer) Leaf(name string, attrs ...Attr) {
	p.Tag(name, attrs)
	p.Buf.WriteString("/>\n")
}

// Pair writes an element as start and end tag with body's output between.
func (p *Printer) Pair(name string, body func(), attrs ...Attr) {
	p.Tag(name, attrs)
	p.Buf.WriteString(">\n")
	p.Indent++
	body()
	p.Indent--
	p.Margin()
	p.Buf.WriteString("</" + name + ">\n")
}

// Elem is pair, and leaf if body writes nothing.
func (p *Printer) Elem(name string, body func(), attrs ...Attr) {
	start := p.Buf.Len()
	p.Tag(name, attrs)
	p.Buf.WriteString(">\n")
	inside := p.Buf.Len()
	p.Indent++
	body()
	p.Indent--
	if p.Buf.Len() == inside {
		p.Buf.Truncate(start)
		p.Leaf(name, attrs...)
		return
	}
	p.Margin()
	p.Buf.WriteString("</" + name + ">\n")
}

// Text writes an element with text, nothing if the text is empty.
func (p *Printer) Text(name, content string) {
	if content == "" {
		return
	}
	p.Tag(name, nil)
	p.Buf.WriteString(">" + escape(content, false) + "</" + name + ">\n")
}

// escape replaces what can't stand in XML as it is. Unlike libvirt it also
// escapes the white space that an XML parser would change, so that every value
// is read back as it was.
func escape(s string, inAttribute bool) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '"':
			b.WriteString("&quot;")
		case r == '\'':
			b.WriteString("&apos;")
		case r == '\r', inAttribute && (r == '\n' || r == '\t'):
			b.WriteString("&#" + strconv.Itoa(int(r)) + ";")
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
