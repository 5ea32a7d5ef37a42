package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Filter is a table filter as a program of iptables shows it.
type Filter struct {
	Family  firewall.Family
	Program string // the program's name in commands for the administrator
	// Rules are those of the chains that are not ours, as iptables-save prints them
	// behind "-A CHAIN ".
	Rules map[string][]string
	Drops []string // the built-in chains with policy DROP
	Rival bool     // of the variant that is not in use: nothing of ours is before it
}

// conditions are the policies and rules that cut guests off. prefix is that of our
// chains.
func (f Filter) conditions(prefix string, g guests) []firewall.Condition {
	if f.Rival {
		// Nothing there is harmless.
		g = guests{open: slices.Concat(g.served, g.open), routed6: g.routed6}
	}
	var out []firewall.Condition
	for chain, hook := range map[string]string{"FORWARD": "forward", "INPUT": "input"} {
		b := builtin{chain: chain, hook: hook, prefix: prefix, program: f.Program, rules: f.Rules, guests: g}
		out = append(out, b.drops(chain, nil)...)
		if slices.Contains(f.Drops, chain) {
			out = append(out, b.policy()...)
		}
	}
	slices.SortFunc(out, func(a, b firewall.Condition) int { return strings.Compare(a.Evidence, b.Evidence) })
	return out
}

// builtin is a built-in chain under examination.
type builtin struct {
	chain, hook string
	prefix      string // of our chains
	program     string
	rules       map[string][]string
	guests      guests
}

// policy is the condition of a policy DROP. What our chains accept does not come
// that far; the guests of open networks do, and so do ICMPv6 messages to the
// host, by which guests find their router.
func (b builtin) policy() []firewall.Condition {
	c := firewall.Condition{
		Kind:     firewall.KindPolicy,
		Evidence: fmt.Sprintf("%s -P %s DROP", b.program, b.chain),
		Remedy:   fmt.Sprintf("%s -P %s ACCEPT", b.program, b.chain),
	}
	open := b.letIn(b.guests.open)
	mute := b.hook == "input" && b.guests.routed6 && !b.mentions("ipv6-icmp")
	switch {
	case len(open) > 0:
		c.Summary = fmt.Sprintf("%s drops what no rule accepts: guests on %s are cut off", b.chain, strings.Join(open, ", "))
		c.Remedy, c.Bridges = b.accepts(open), open
	case mute:
		c.Summary = b.chain + " drops what no rule accepts, ICMPv6 too: guests find no router"
		c.Remedy, c.Bridges = b.program+" -A "+b.chain+" -p ipv6-icmp -j ACCEPT", b.guests.served
	default:
		c.Summary = b.chain + " drops what no rule accepts; the networks' rules stand before that"
		c.Harmless = true
	}
	return []firewall.Condition{c}
}

// letIn are the bridges that no rule of the chain accepts for.
func (b builtin) letIn(bridges []string) []string {
	return slices.DeleteFunc(slices.Clone(bridges), func(bridge string) bool {
		return slices.ContainsFunc(b.rules[b.chain], func(args string) bool {
			return strings.Contains(args+" ", " "+bridge+" ") && strings.HasSuffix(args, "-j ACCEPT")
		})
	})
}

// mentions reports whether a rule of the chain has the text.
func (b builtin) mentions(what string) bool {
	return slices.ContainsFunc(b.rules[b.chain], func(args string) bool { return strings.Contains(args, what) })
}

// accepts are the commands that accept what comes from and goes to bridges.
func (b builtin) accepts(bridges []string) string {
	var commands []string
	for _, bridge := range bridges {
		commands = append(commands, fmt.Sprintf("%s -I %s -i %s -j ACCEPT", b.program, b.chain, bridge))
		if b.hook == "forward" {
			commands = append(commands, fmt.Sprintf("%s -I %s -o %s -j ACCEPT", b.program, b.chain, bridge))
		}
	}
	return strings.Join(commands, "; ")
}

// drops are the conditions of rules that drop all packets of a bridge before our
// chains are asked, in the chain and in those that it leads to without asking
// for more. via are the chains on the way, against loops.
func (b builtin) drops(chain string, via []string) []firewall.Condition {
	var out []firewall.Condition
	for _, args := range b.rules[chain] {
		target, matches := splitRule(args)
		switch {
		case strings.HasPrefix(target, b.prefix) && matches == "":
			return out
		case target == "ACCEPT" && matches == "", target == "RETURN" && matches == "":
			return out
		case target == "DROP", target == "REJECT":
			if hit := b.hits(matches); len(hit) > 0 {
				out = append(out, firewall.Condition{
					Kind:     firewall.KindDrop,
					Summary:  fmt.Sprintf("a rule drops packets of guests on %s before the networks' rules are asked", strings.Join(hit, ", ")),
					Evidence: fmt.Sprintf("%s -A %s %s", b.program, chain, args),
					Remedy:   fmt.Sprintf("%s -D %s %s", b.program, chain, args),
					Bridges:  hit,
				})
			}
		case b.rules[target] != nil && matches == "" && !slices.Contains(via, target):
			out = append(out, b.drops(target, append(via, target))...)
		}
	}
	return out
}

// splitRule is a rule's target and what stands before it.
func splitRule(args string) (target, matches string) {
	matches, rest, found := strings.Cut(" "+args, " -j ")
	if !found {
		return "", strings.TrimSpace(matches)
	}
	target, _, _ = strings.Cut(rest, " ")
	return target, strings.TrimSpace(matches)
}

// hits are the bridges all of whose packets in one direction match. A rule that
// asks for more than devices is taken for what its owner meant.
func (b builtin) hits(matches string) []string {
	fields := strings.Fields(matches)
	if len(fields)%2 != 0 {
		return nil
	}
	bridges := b.guests.on(b.hook)
	for i := 0; i < len(fields); i += 2 {
		if fields[i] != "-i" && fields[i] != "-o" {
			return nil
		}
		bridges = slices.DeleteFunc(bridges, func(bridge string) bool { return !deviceMatches(fields[i+1], "+", bridge) })
	}
	return bridges
}

// deviceMatches reports whether a device's name fits a pattern, which may end in
// the wildcard.
func deviceMatches(pattern, wildcard, device string) bool {
	if start, wild := strings.CutSuffix(pattern, wildcard); wild {
		return strings.HasPrefix(device, start)
	}
	return pattern == device
}
