package xmldoc

import (
	"bytes"
	"encoding/xml"
	"maps"
	"slices"
	"strings"
)

// Part is a piece of an element that is kept as text.
type Part struct {
	Name string  // of an element; "" for the rest
	Text string  // an element's start tag without its end; the rest as it is written
	raw  bool    // character data: blanks around it are part of the text
	kids []*Part // of an element
}

// FormatElement writes an element as libvirt's writer, libxml2, does when it
// indents: double quotes, namespace declarations before attributes, two spaces
// for each level, and elements that hold text as they are. declare has the
// prefixes to declare at the root. Lines after the first are indented for
// level. What is not one well-formed element is returned as it is.
func FormatElement(src string, declare map[string]string, level int) string {
	root := ParseParts([]byte(src), declare)
	if root == nil {
		return src
	}
	var b strings.Builder
	root.write(&b, level, true)
	return b.String()
}

// ParseParts reads one element; nil if it is not well-formed.
func ParseParts(src []byte, declare map[string]string) *Part {
	dec := xml.NewDecoder(bytes.NewReader(src))
	top := &Part{}
	open := []*Part{top}
	for {
		begin := dec.InputOffset()
		tok, err := dec.RawToken()
		if err != nil {
			break
		}
		inner := open[len(open)-1]
		switch t := tok.(type) {
		case xml.StartElement:
			kid := startTag(t, declare)
			declare = nil
			inner.kids = append(inner.kids, kid)
			open = append(open, kid)
		case xml.EndElement:
			if len(open) == 1 {
				return nil
			}
			inner.dropBlanks()
			open = open[:len(open)-1]
		default:
			inner.kids = append(inner.kids, otherPart(tok, src[begin:]))
		}
	}
	if len(open) != 1 || len(top.kids) != 1 || top.kids[0].Name == "" {
		return nil
	}
	return top.kids[0]
}

// startTag returns an element with the start of its tag.
func startTag(t xml.StartElement, declare map[string]string) *Part {
	var names, attrs []string
	for _, prefix := range slices.Sorted(maps.Keys(declare)) {
		names = append(names, " xmlns:"+prefix+`="`+EscapeText(declare[prefix], true)+`"`)
	}
	for _, a := range t.Attr {
		text := " " + qualified(a.Name) + `="` + EscapeText(a.Value, true) + `"`
		if a.Name.Space == "xmlns" || qualified(a.Name) == "xmlns" {
			names = append(names, text)
		} else {
			attrs = append(attrs, text)
		}
	}
	name := qualified(t.Name)
	return &Part{Name: name, Text: "<" + name + strings.Join(names, "") + strings.Join(attrs, "")}
}

// otherPart returns what is not an element. Its source tells character data
// from a CDATA section.
func otherPart(tok xml.Token, src []byte) *Part {
	lines := strings.NewReplacer("\r\n", "\n", "\r", "\n")
	switch t := tok.(type) {
	case xml.CharData:
		if bytes.HasPrefix(src, []byte("<![CDATA[")) {
			return &Part{Text: "<![CDATA[" + string(t) + "]]>", raw: true}
		}
		return &Part{Text: EscapeText(string(t), false), raw: true}
	case xml.Comment:
		return &Part{Text: "<!--" + lines.Replace(string(t)) + "-->"}
	case xml.ProcInst:
		return &Part{Text: strings.TrimSuffix("<?"+t.Target+" "+lines.Replace(string(t.Inst)), " ") + "?>"}
	}
	return &Part{}
}

// dropBlanks removes the blanks that only indent what stands inside p, by
// libxml2's rule: those that are not all there is, and not in mixed content.
func (p *Part) dropBlanks() {
	var kept []*Part
	for _, kid := range p.kids {
		mixed := len(kept) > 0 && (kept[0].raw || kept[len(kept)-1].raw)
		if kid.raw && strings.Trim(kid.Text, " \t\n") == "" && !mixed && len(p.kids) > 1 {
			continue
		}
		kept = append(kept, kid)
	}
	p.kids = kept
}

// write writes p, indented unless it is inside of text.
func (p *Part) write(b *strings.Builder, level int, indented bool) {
	b.WriteString(p.Text)
	if p.Name == "" {
		return
	}
	if len(p.kids) == 0 {
		b.WriteString("/>")
		return
	}
	b.WriteString(">")
	indented = indented && !slices.ContainsFunc(p.kids, func(kid *Part) bool { return kid.raw })
	margin := func(level int) {
		if indented {
			b.WriteString("\n" + strings.Repeat("  ", level))
		}
	}
	for _, kid := range p.kids {
		margin(level + 1)
		kid.write(b, level+1, indented)
	}
	margin(level)
	b.WriteString("</" + p.Name + ">")
}

// EscapeText is escape by libxml2's rules.
func EscapeText(s string, inAttribute bool) string {
	pairs := []string{"<", "&lt;", ">", "&gt;", "&", "&amp;", "\r", "&#13;"}
	if inAttribute {
		pairs = append(pairs, `"`, "&quot;", "\n", "&#10;", "\t", "&#9;")
	}
	return strings.NewReplacer(pairs...).Replace(s)
}

// String returns an element as formatElement does at level 0.
func (p *Part) String() string {
	var b strings.Builder
	p.write(&b, 0, true)
	return b.String()
}
