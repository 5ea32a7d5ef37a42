package ruleset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// object is an element of nft's list.
type object struct {
	Table, Chain, Rule, Set, Map *entity
}

// entity is any of the things that nft lists, as libnftables-json(5) has them.
type entity struct {
	Family, Name, Table, Chain string
	Type                       any
	Hook                       string
	Prio                       int
	Policy                     string
	Dev                        any
	Flags                      any
	Handle                     int
	Expr                       []any
	Elem                       []any
	Map                        any
	Comment                    string
}

// ParseNFT reads the output of "nft -j list ruleset". What it does not know of a rule
// becomes an unknown part of it; tables that are dormant are left out.
func ParseNFT(text []byte) (Ruleset, error) {
	var list struct{ Nftables []object }
	numbers := json.NewDecoder(bytes.NewReader(text))
	numbers.UseNumber() // there are some of 64 bits
	if err := numbers.Decode(&list); err != nil {
		return Ruleset{}, fmt.Errorf("reading nft's list of the rule set: %w", err)
	}
	var r Ruleset
	for _, o := range list.Nftables {
		if t := o.Table; t != nil && !slices.Contains(texts(t.Flags), "dormant") {
			r.Tables = append(r.Tables, &Table{Family: t.Family, Name: t.Name, Sets: map[string]*Set{}})
		}
		if c := o.Chain; c != nil {
			r.addChain(c)
		}
	}
	for _, o := range list.Nftables {
		for _, s := range []*entity{o.Set, o.Map} {
			if s != nil {
				r.addSet(s)
			}
		}
	}
	for _, o := range list.Nftables {
		if o.Rule != nil {
			r.addRule(o.Rule)
		}
	}
	return r, nil
}

// Table returns the table of nftables, nil if there is none.
func (r *Ruleset) Table(family, name string) *Table {
	for _, t := range r.Tables {
		if t.Family == family && t.Name == name && !t.Legacy {
			return t
		}
	}
	return nil
}

// addChain adds a chain to its table.
func (r *Ruleset) addChain(e *entity) {
	t := r.Table(e.Family, e.Table)
	if t == nil {
		return
	}
	kind, _ := e.Type.(string)
	t.Chains = append(t.Chains, &Chain{
		Table: t, Name: e.Name, Type: kind, Hook: e.Hook, Priority: e.Prio, Drops: e.Policy == "drop", Devices: texts(e.Dev),
	})
}

// addSet adds a named set or map to its table.
func (r *Ruleset) addSet(e *entity) {
	t := r.Table(e.Family, e.Table)
	if t == nil {
		return
	}
	s := parseSet(e.Elem, typeFields(e.Type))
	s.Name, s.Types = e.Name, typeNames(e.Type)
	for i := range s.Elements {
		s.Elements[i].in = s
	}
	t.Sets[e.Name] = s
}

// typeFields are stand-ins for the fields that a set is looked up with, one for each
// part of its type, by which names of values are understood.
func typeFields(kind any) []string {
	fields := typeNames(kind)
	for i, name := range fields {
		if known, ok := typeField[name]; ok {
			fields[i] = known
		}
	}
	return fields
}

// typeNames are the names of the parts of a type.
func typeNames(kind any) (names []string) {
	for _, name := range texts(kind) {
		names = append(names, strings.Split(name, " . ")...)
	}
	return names
}

// typeField is a field of each type whose values have names.
var typeField = map[string]string{
	"ifname": "meta iifname", "iface_index": "meta iif", "inet_proto": "meta l4proto", "inet_service": "th dport", "ether_type": "ether type",
	"ct_state": "ct state", "ct_status": "ct status", "ct_dir": "ct direction", "icmp_type": "icmp type", "icmpv6_type": "icmpv6 type",
	"pkt_type": "meta pkttype", "fib_addrtype": "fib daddr type", "nf_proto": "meta nfproto", "arp_op": "arp operation", "tcp_flag": "tcp flags",
}

// addRule adds a rule to its chain.
func (r *Ruleset) addRule(e *entity) {
	t := r.Table(e.Family, e.Table)
	if t == nil {
		return
	}
	c := t.Chain(e.Chain)
	if c == nil {
		return
	}
	rule := &Rule{Chain: c, Handle: e.Handle, Comment: e.Comment}
	p := ruleParser{sets: t.Sets}
	for _, s := range e.Expr {
		rule.Statements = append(rule.Statements, p.statement(s)...)
	}
	rule.native = p.lookups
	c.Rules = append(c.Rules, rule)
}

// texts are the texts of a text or a list of them.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var all []string
		for _, e := range v {
			all = append(all, texts(e)...)
		}
		return all
	}
	return nil
}
