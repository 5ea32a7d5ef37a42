package iptables

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// TestChainKnowsItsPlaces has rules come to a chain and go from it, some of them several times: it
// holds what a list of them does, in the same order.
func TestChainKnowsItsPlaces(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	some := func() (rules []string) {
		for range 1 + r.IntN(5) {
			if rule := strconv.Itoa(r.IntN(30)); !slices.Contains(rules, rule) {
				rules = append(rules, rule)
			}
		}
		return rules
	}
	c := listing{}.declare("filter", "chain")
	var list []string
	for range 20000 {
		rules := some()
		picked := func(want bool) []string {
			return slices.DeleteFunc(slices.Clone(list), func(rule string) bool { return slices.Contains(rules, rule) != want })
		}
		switch r.IntN(3) {
		case 0:
			c.insert(rules)
			list = slices.Concat(rules, list)
		case 1:
			if got, want := c.remove(rules), picked(true); !slices.Equal(got, want) {
				t.Fatalf("seed %d: removed %v, want %v", seed, got, want)
			}
			list = picked(false)
		}
		if got, want := c.held(append(rules, rules...)), picked(true); !slices.Equal(got, want) || !slices.Equal(c.rules(), list) {
			t.Fatalf("seed %d: of %v it holds %v, want %v; all are %v, want %v", seed, rules, got, want, c.rules(), list)
		}
	}
}
