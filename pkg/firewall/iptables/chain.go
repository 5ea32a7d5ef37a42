package iptables

import (
	"iter"
	"slices"
)

// chain is what one chain holds: each rule as iptables-save prints it after
// "-A CHAIN ". What is asked about a network's rules costs little however many
// rules others have in the chain. A nil chain holds nothing.
type chain struct {
	// backwards are the rules, the last one first, so that those that come to the
	// head are appended. The elements are never altered.
	backwards []string
	copies    map[string]int // by text; no entry for none
}

// all yields the rules in their order.
func (c *chain) all() iter.Seq[string] {
	return func(yield func(string) bool) {
		if c == nil {
			return
		}
		for _, args := range slices.Backward(c.backwards) {
			if !yield(args) {
				return
			}
		}
	}
}

// rules are all, as a slice of its own.
func (c *chain) rules() []string { return slices.Collect(c.all()) }

// has tells whether the chain holds the rule.
func (c *chain) has(args string) bool { return c != nil && c.copies[args] > 0 }

// count is the number of copies of any of the rules, which are distinct.
func (c *chain) count(rules []string) int {
	n := 0
	if c != nil {
		for _, args := range rules {
			n += c.copies[args]
		}
	}
	return n
}

// held are the copies of the rules in the order in which they stand.
func (c *chain) held(rules []string) []string {
	left := c.count(rules)
	if left == 0 {
		return nil
	}
	var out []string
	for args := range c.all() {
		if slices.Contains(rules, args) {
			out = append(out, args)
			if left--; left == 0 {
				break
			}
		}
	}
	return out
}

// insert puts rules at the head.
func (c *chain) insert(rules []string) {
	for _, args := range slices.Backward(rules) {
		c.backwards = append(c.backwards, args)
		c.copies[args]++
	}
}

// remove takes out every copy of the rules and returns them in their order.
func (c *chain) remove(rules []string) []string {
	removed := c.held(rules)
	if len(removed) == 0 {
		return nil
	}
	left, at := len(removed), len(c.backwards)
	var ahead []string // what stays of those that were looked at
	for ; left > 0; at-- {
		if args := c.backwards[at-1]; slices.Contains(rules, args) {
			left--
		} else {
			ahead = append(ahead, args)
		}
	}
	slices.Reverse(ahead)
	c.backwards = slices.Concat(c.backwards[:at], ahead)
	for _, args := range rules {
		delete(c.copies, args)
	}
	return removed
}
