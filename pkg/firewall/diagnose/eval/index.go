package eval

import (
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// longChain is how many rules a chain has at least that an Index knows.
const longChain = 64

// Index finds those rules of long chains whose first match a packet may meet: of the rules of
// thousands of networks a few. The rules are not altered any more. It is for one goroutine; nil
// finds all rules.
type Index struct {
	chains map[*ruleset.Chain]*chainIndex
}

// NewIndex returns one of rules that nothing was asked of yet.
func NewIndex() *Index { return &Index{make(map[*ruleset.Chain]*chainIndex)} }

// chainIndex are the places of a chain's rules, in order.
type chainIndex struct {
	others []int // of rules that begin with something else than what follows
	fields map[string]*fieldIndex
}

// fieldIndex are those of the rules that first ask for one value of a field, or for a range of
// them that is a prefix.
type fieldIndex struct {
	all   []int
	hosts []int // how many bits behind the prefix there are, each once
	at    map[prefix][]int
}

// prefix is a value without the bits behind it.
type prefix struct {
	value ruleset.Value
	host  int
}

// find lists the places of the chain's rules from one on that fates may meet, and reports whether
// it knows.
func (x *Index) find(m *reader, c *ruleset.Chain, from int, fates []fate) (places []int, knows bool) {
	if x == nil || len(c.Rules) < longChain || len(fates) == 0 {
		return nil, false
	}
	of := x.chains[c]
	if of == nil {
		of = indexOf(c)
		x.chains[c] = of
	}
	places = append(places, of.others...)
	for i := range fates {
		for name, f := range of.fields {
			places = append(places, f.find(m.field(&fates[i].packet, name))...)
		}
	}
	slices.Sort(places)
	places = slices.Compact(places)
	at, _ := slices.BinarySearch(places, from)
	return places[at:], true
}

// find lists the places of rules for what is known of the field's value.
func (f *fieldIndex) find(v ruleset.Value, k known) (places []int) {
	switch k {
	case absent:
		return nil
	case unclear:
		return f.all
	}
	for _, host := range f.hosts {
		places = append(places, f.at[prefix{v.Behind(host), host}]...)
	}
	return places
}

// indexOf sorts a chain's rules.
func indexOf(c *ruleset.Chain) *chainIndex {
	x := &chainIndex{fields: make(map[string]*fieldIndex)}
	for i, r := range c.Rules {
		if len(r.Statements) == 0 {
			continue // it does nothing
		}
		s := &r.Statements[0]
		p, ok := prefixOf(s)
		if !ok {
			x.others = append(x.others, i)
			continue
		}
		f := x.fields[s.Expr.Field]
		if f == nil {
			f = &fieldIndex{at: make(map[prefix][]int)}
			x.fields[s.Expr.Field] = f
		}
		if !slices.Contains(f.hosts, p.host) {
			f.hosts = append(f.hosts, p.host)
		}
		f.all, f.at[p] = append(f.all, i), append(f.at[p], i)
	}
	return x
}

// prefixOf is what a statement asks for, if it asks a link's name or an address for one value, or
// for a prefix.
func prefixOf(s *ruleset.Statement) (p prefix, ok bool) {
	asks := s.Kind == ruleset.Match && (s.Op == "==" || s.Op == "") && s.Expr.Op == "field" && s.Set != nil && !s.Set.Unknown
	if !asks || len(s.Set.Elements) != 1 || len(s.Set.Elements[0].Key) != 1 {
		return p, false
	}
	r := s.Set.Elements[0].Key[0]
	switch s.Expr.Field {
	case "meta iifname", "meta oifname":
		return prefix{value: r.Low}, r.Low == r.High && r.Low.Text != "" && !strings.HasSuffix(r.Low.Text, "*")
	case "ip saddr", "ip daddr", "ip6 saddr", "ip6 daddr":
		host, ok := r.Prefix()
		return prefix{r.Low, host}, ok
	}
	return p, false
}

// walk goes through the rules of a chain that fates may meet.
type walk struct {
	*machine
	chain   *ruleset.Chain
	at      int // of the next rule, if nothing is known of it
	places  []int
	indexed bool
}

// narrow has the next rules be those that fates may meet.
func (w *walk) narrow(fates []fate) {
	w.places, w.indexed = w.query.Index.find(&w.reader, w.chain, w.at, fates)
}

// next is the next rule, nil behind the last.
func (w *walk) next() *ruleset.Rule {
	if w.indexed {
		if len(w.places) == 0 {
			return nil
		}
		w.at, w.places = w.places[0], w.places[1:]
	}
	if w.at >= len(w.chain.Rules) {
		return nil
	}
	w.at++
	return w.chain.Rules[w.at-1]
}
