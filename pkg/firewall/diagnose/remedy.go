package diagnose

import (
	"fmt"
	"slices"
	"strings"

	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// remedy are the commands that let the packets pass, and as little else as can be said
// in one rule.
func (f *finding) remedy() string {
	var commands []string
	for i := range f.hits {
		h := &f.hits[i]
		for _, command := range h.remedies(f.rule) {
			if !slices.Contains(commands, command) {
				commands = append(commands, command)
			}
		}
	}
	return strings.Join(commands, "; ")
}

// remedies are those for one packet.
func (h *hit) remedies(rule *ruleset.Rule) []string {
	base := h.result.Base
	t := base.Table
	switch {
	case t.Family == "netdev" || h.result.Hook.Layer == eval.Device:
		if rule != nil {
			return []string{fmt.Sprintf("nft delete rule %s %s %s handle %d", t.Family, t.Name, rule.Chain.Name, rule.Handle)}
		}
		return []string{fmt.Sprintf("nft chain %s %s %s '{ policy accept; }'", t.Family, t.Name, base.Name)}
	case t.Program != "":
		return h.iptables(base, rule)
	}
	var commands []string
	for _, match := range h.matches(true) {
		commands = append(commands, fmt.Sprintf("nft insert rule %s %s %s %s accept", t.Family, t.Name, base.Name, match))
	}
	return commands
}

// iptables are the commands of iptables. What is forwarded is accepted by the networks'
// own rules: one that stands before them goes, since an accept for the whole bridge
// would open it to other networks.
func (h *hit) iptables(base *ruleset.Chain, rule *ruleset.Rule) []string {
	t := base.Table
	program := t.Program + tableOption(t)
	if h.result.Hook.Name == "forward" && h.probe.Network.Mode.Filtered() && rule != nil && t.Name == "filter" {
		return []string{fmt.Sprintf("%s -D %s %s", program, rule.Chain.Name, rule.Text)}
	}
	var commands []string
	for _, match := range h.matches(false) {
		commands = append(commands, fmt.Sprintf("%s -I %s %s -j ACCEPT", program, base.Name, match))
	}
	return commands
}

// words are the matches of a program: of links coming in and going out, and of
// replies.
type words struct{ in, out, replies string }

// matches are the matches of a rule that accepts the packet at its hook.
func (h *hit) matches(nft bool) []string {
	w := words{"-i", "-o", " -m conntrack --ctstate RELATED,ESTABLISHED"}
	narrow := h.probe.match
	if nft {
		w, narrow = words{"iifname", "oifname", " ct state established,related"}, h.probe.matchNFT
	}
	if narrow != "" {
		narrow = " " + narrow
	}
	hook, bridge := h.result.Hook, h.probe.Network.Bridge
	if hook.Layer == eval.Bridge {
		return bridgeMatch(hook, bridge)
	}
	switch {
	case h.probe.between():
		return []string{map[string]string{
			"prerouting": w.in + " " + bridge, "forward": w.in + " " + bridge + " " + w.out + " " + bridge, "postrouting": w.out + " " + bridge,
		}[hook.Name]}
	case hook.Name == "forward" && h.probe.uplink == "":
		return []string{w.in + " " + bridge, w.out + " " + bridge}
	case h.probe.from && hook.Name == "postrouting":
		return []string{w.out + " " + h.probe.uplink}
	case h.probe.from:
		return []string{w.in + " " + bridge + narrow}
	case hook.Name == "prerouting":
		return []string{w.in + " " + h.probe.uplink + w.replies}
	}
	return []string{w.out + " " + bridge + narrow}
}

// between reports whether the packet goes from one port of the bridge to another.
func (p *Probe) between() bool {
	return slices.ContainsFunc(p.Path, func(h eval.Hook) bool { return h.Layer == eval.Bridge && h.Name == "forward" })
}

// bridgeMatch is the match of a bridge's own frames.
func bridgeMatch(hook eval.Hook, bridge string) []string {
	if hook.InBridge != "" {
		return []string{"meta ibrname " + bridge}
	}
	return []string{"meta obrname " + bridge}
}
