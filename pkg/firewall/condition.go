package firewall

import "slices"

// Kind is a class of conditions.
type Kind string

// The kinds of conditions.
const (
	KindPolicy          Kind = "drop-policy"        // a base chain drops what no rule of its table accepts
	KindDrop            Kind = "drop-rule"          // a rule drops guests' packets before ours are asked
	KindBridgeNetfilter Kind = "bridge-netfilter"   // packets within a bridge pass through iptables
	KindForwardingOff   Kind = "forwarding-off"     // the kernel forwards no packets
	KindDiverted        Kind = "dns-diverted"       // a rule sends guests' DNS queries elsewhere
	KindUnclear         Kind = "rule-unclear"       // what a rule does to guests can't be told
	KindNoIPTables      Kind = "no-iptables"        // networks that need rules can't start
	KindNoNFTables      Kind = "no-nftables"        // the same, for want of nftables in the kernel
	KindUndecided       Kind = "firewall-undecided" // which writer is best can't be told
	KindNoOffload       Kind = "no-flow-offload"    // connections pass all rules that should go past them
)

// Condition is something on this host, not of our making, that cuts guests off
// or would if our rules were not before it.
type Condition struct {
	Kind Kind
	// Summary is one sentence for the administrator, Evidence the rule, policy or
	// setting as its program shows it, Remedy the command that would put it right.
	Summary, Evidence, Remedy string
	// Bridges are those whose guests are cut off; empty where it is harmless.
	Bridges []string
	// Harmless reports that no guest is cut off as things are.
	Harmless bool
}

// distinct drops what both families show, such as a table of family inet.
func distinct(conditions []Condition) []Condition {
	var out []Condition
	for _, c := range conditions {
		if !slices.ContainsFunc(out, func(o Condition) bool { return o.Evidence == c.Evidence }) {
			out = append(out, c)
		}
	}
	return out
}
