package ruleset

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// fields are the names of the fields of an expression, one for each part of a
// concatenation, by which names of values are understood.
func (e Expr) fields() []string {
	switch e.Op {
	case "field":
		return []string{e.Field}
	case "concat":
		var all []string
		for _, a := range e.Args {
			all = append(all, append(a.fields(), "")[0])
		}
		return all
	case "&", "|", "^":
		return e.Args[0].fields()
	}
	return []string{""}
}

// expr reads an expression. One that is not understood has no Op.
func (p *ruleParser) expr(v any) Expr {
	key, value := single(v)
	switch key {
	case "meta", "ct":
		name := key + " " + text(value, "key")
		if dir := text(value, "dir"); dir != "" {
			name = "ct " + dir + " " + text(value, "key")
		}
		return field(name)
	case "payload":
		return payload(value)
	case "exthdr":
		// The name of the header is not told: of none packets have any.
		return field(strings.TrimSpace("exthdr " + text(value, "field")))
	case "fib":
		return field("fib " + strings.Join(texts(get(value, "flags")), " . ") + " " + text(value, "result"))
	case "concat":
		return p.operation(key, value)
	case "&", "|", "^":
		return p.operation(key, value)
	case "range":
		e := p.operation(key, value)
		if len(e.Args) != 2 || e.Args[0].Op != "value" || e.Args[1].Op != "value" {
			return Expr{}
		}
		return e
	case "map":
		p.lookups = true
		e := p.expr(get(value, "key"))
		return Expr{Op: "map", Args: []Expr{e}, Set: p.set(get(value, "data"), e.fields())}
	case "":
		if value, ok := scalar("", v); ok {
			return Expr{Op: "value", Value: value}
		}
	}
	return Expr{}
}

// payload is a field of the packet's headers, by its name or by its place in bits, as in
// "raw nh 96 32" for the source of IPv4. Two forms of ports by offset have names.
func payload(v any) Expr {
	if protocol := text(v, "protocol"); protocol != "" {
		return field(protocol + " " + text(v, "field"))
	}
	base, offset, length := text(v, "base"), number(v, "offset"), number(v, "len")
	switch {
	case base == "" || offset < 0 || length < 0:
		return Expr{}
	case base == "th" && offset == 0 && length == 16:
		return field("th sport")
	case base == "th" && offset == 16 && length == 16:
		return field("th dport")
	}
	return field(fmt.Sprintf("raw %s %d %d", base, offset, length))
}

// number is a member that is a number of at most 31 bits, -1 for any other.
func number(v any, key string) int {
	text, _ := get(v, key).(json.Number)
	n, err := strconv.ParseUint(string(text), 10, 31)
	if err != nil {
		return -1
	}
	return int(n)
}

// operation reads an operation on several expressions. Constants get the meaning of
// the first field.
func (p *ruleParser) operation(op string, v any) Expr {
	list, _ := v.([]any)
	e := Expr{Op: op}
	for i, a := range list {
		arg := p.expr(a)
		if i > 0 && op != "concat" {
			if c := flags(a, e.Args[0].fields()); c.Op == "value" {
				arg = c
			}
		}
		e.Args = append(e.Args, arg)
	}
	if len(e.Args) < 2 {
		return Expr{}
	}
	return e
}

// flags reads a constant: one value, or several bits of one.
func flags(v any, fields []string) Expr {
	if _, or := single(v); or != nil {
		v = get(v, "|")
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	var n Number
	for _, e := range list {
		value, ok := scalar(append(fields, "")[0], e)
		if !ok || value.Text != "" {
			return Expr{}
		}
		n = n.Or(value.Number)
	}
	return Expr{Op: "value", Value: Value{Number: n}}
}

// set reads the right side of a match: a name of a set, a set, or a constant.
func (p *ruleParser) set(v any, fields []string) *Set {
	if name, ok := v.(string); ok && strings.HasPrefix(name, "@") {
		p.lookups = true
		if s := p.sets[name[1:]]; s != nil {
			return s
		}
		return &Set{Unknown: true}
	}
	if list, ok := get(v, "set").([]any); ok {
		p.lookups = true
		return parseSet(list, fields)
	}
	return parseSet([]any{v}, fields)
}

// parseSet reads elements. What it can't read makes the set one that may have others.
func parseSet(list []any, fields []string) *Set {
	s := &Set{}
	for _, v := range list {
		e, ok := parseElement(v, fields)
		if !ok {
			s.Unknown = true
			continue
		}
		s.Elements = append(s.Elements, e)
	}
	return s
}

// parseElement reads an element, of a map with what it leads to.
func parseElement(v any, fields []string) (Element, bool) {
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 {
		key, ok := parseKey(v, fields)
		return Element{Key: key, Comment: text(get(v, "elem"), "comment")}, ok
	}
	e := Element{Comment: text(get(pair[0], "elem"), "comment")}
	if e.Key, ok = parseKey(pair[0], fields); !ok {
		return e, false
	}
	if name, value := single(pair[1]); name != "" {
		if e.Verdict, ok = parseVerdict(name, value); ok {
			return e, true
		}
	}
	parts := []any{pair[1]}
	if list, ok := get(pair[1], "concat").([]any); ok {
		parts = list
	}
	for _, part := range parts {
		value, ok := scalar("", part)
		if !ok {
			return e, false
		}
		e.Value = append(e.Value, value)
	}
	return e, true
}

// parseKey reads the key of an element: a range for each part.
func parseKey(v any, fields []string) ([]Range, bool) {
	if inner := get(v, "elem"); inner != nil {
		return parseKey(get(inner, "val"), fields)
	}
	if v == "*" {
		return nil, true
	}
	parts := []any{v}
	if list, ok := get(v, "concat").([]any); ok {
		parts = list
	}
	var key []Range
	for i, part := range parts {
		name := ""
		if i < len(fields) {
			name = fields[i]
		}
		r, ok := parseRange(part, name)
		if !ok {
			return nil, false
		}
		key = append(key, r)
	}
	return key, true
}

// parseRange reads a constant, a prefix or a range.
func parseRange(v any, field string) (Range, bool) {
	key, value := single(v)
	switch key {
	case "prefix":
		a, err := netip.ParseAddr(text(value, "addr"))
		if err != nil {
			return Range{}, false
		}
		p, err := a.Prefix(number(value, "len"))
		if err != nil {
			return Range{}, false
		}
		return prefixRange(p), true
	case "range":
		ends, _ := value.([]any)
		if len(ends) != 2 {
			return Range{}, false
		}
		low, ok1 := scalar(field, ends[0])
		high, ok2 := scalar(field, ends[1])
		return Range{low, high}, ok1 && ok2
	}
	single, ok := scalar(field, v)
	return Range{single, single}, ok
}

// scalar reads a constant that is compared with field.
func scalar(field string, v any) (Value, bool) {
	switch v := v.(type) {
	case string:
		return parseValue(field, v)
	case json.Number:
		n, err := strconv.ParseUint(string(v), 10, 64)
		if err != nil || symbolTable(field) == "ethertype" {
			return Value{}, false // nft prints types of frames that have no name in the wrong order
		}
		return Uint(n), true
	case bool:
		if v {
			return Uint(1), true
		}
		return Uint(0), true
	}
	return Value{}, false
}
