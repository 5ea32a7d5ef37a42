package netdef

import (
	"bytes"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// printer writes elements in the form of libvirt's virBuffer: two spaces per
// level, attributes in single quotes.
type printer struct {
	buf    bytes.Buffer
	indent int
}

// attr is an attribute to print; one without a name is left out.
type attr struct{ name, value string }

// opt is an attribute that is left out when its value is the empty string.
func opt[T ~string](name string, value T) attr {
	if value == "" {
		return attr{}
	}
	return attr{name, string(value)}
}

// num is an attribute that is left out when its value is 0.
func num[T int | uint16 | uint32 | uint64](name string, value T) attr {
	if value == 0 {
		return attr{}
	}
	return attr{name, fmt.Sprint(value)}
}

// addr is an attribute that is left out when its value is the zero address.
func addr(name string, value netip.Addr) attr {
	if !value.IsValid() {
		return attr{}
	}
	return attr{name, value.String()}
}

// flag is an attribute that is yes or left out.
func flag(name string, value bool) attr {
	if !value {
		return attr{}
	}
	return attr{name, "yes"}
}

// tag begins a line with "<name" and the attributes.
func (p *printer) tag(name string, attrs []attr) {
	p.margin()
	p.buf.WriteString("<" + name)
	for _, a := range attrs {
		if a.name != "" {
			p.buf.WriteString(" " + a.name + "='" + escape(a.value, true) + "'")
		}
	}
}

// margin writes the indentation of a line.
func (p *printer) margin() {
	for range p.indent {
		p.buf.WriteString("  ")
	}
}

// leaf writes an element without content.
func (p *printer) leaf(name string, attrs ...attr) {
	p.tag(name, attrs)
	p.buf.WriteString("/>\n")
}

// pair writes an element as start and end tag with body's output between.
func (p *printer) pair(name string, body func(), attrs ...attr) {
	p.tag(name, attrs)
	p.buf.WriteString(">\n")
	p.indent++
	body()
	p.indent--
	p.margin()
	p.buf.WriteString("</" + name + ">\n")
}

// elem is pair, and leaf if body writes nothing.
func (p *printer) elem(name string, body func(), attrs ...attr) {
	start := p.buf.Len()
	p.tag(name, attrs)
	p.buf.WriteString(">\n")
	inside := p.buf.Len()
	p.indent++
	body()
	p.indent--
	if p.buf.Len() == inside {
		p.buf.Truncate(start)
		p.leaf(name, attrs...)
		return
	}
	p.margin()
	p.buf.WriteString("</" + name + ">\n")
}

// text writes an element with text, nothing if the text is empty.
func (p *printer) text(name, content string) {
	if content == "" {
		return
	}
	p.tag(name, nil)
	p.buf.WriteString(">" + escape(content, false) + "</" + name + ">\n")
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
