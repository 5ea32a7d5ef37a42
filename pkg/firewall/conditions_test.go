package firewall_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// conditions are those of the host, in words that a test can compare.
func (h *host) conditions(f *firewall.Firewall) []firewall.Condition {
	h.Helper()
	found, err := f.Conditions(h.Context())
	if err != nil {
		h.Fatalf("Conditions: %v", err)
	}
	return found
}

// routing turns forwarding on or off.
func (h *host) routing(value string) {
	h.Helper()
	for _, path := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o644); err != nil {
			h.Fatal(err)
		}
	}
}

// What cuts guests off is named with its evidence, and is gone when the remedy
// was carried out to the letter.
func TestConditions(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, intents()["nat66"], intents()["isolated"])
		program := "iptables"
		h.alias(program, h.program(firewall.IPv4))
		h.alias("ip6tables", h.program(firewall.IPv6))
		h.routing("1")
		if got := h.conditions(f); len(got) != 0 {
			h.Fatalf("conditions on a fresh host: %+v", got)
		}
		for _, c := range []struct {
			name     string
			setup    string
			kind     firewall.Kind
			evidence string
			harmless bool
		}{
			{"forwarding off", "echo 0 >/proc/sys/net/ipv4/ip_forward", firewall.KindForwardingOff, "net.ipv4.ip_forward = 0", false},
			{"IPv6 forwarding off", "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding", firewall.KindForwardingOff, "net.ipv6.conf.all.forwarding = 0", false},
			{"FORWARD policy", "iptables -P FORWARD DROP", firewall.KindPolicy, "iptables -P FORWARD DROP", true},
			{"INPUT policy", "iptables -P INPUT DROP", firewall.KindPolicy, "iptables -P INPUT DROP", true},
			{"INPUT policy of IPv6", "ip6tables -P INPUT DROP", firewall.KindPolicy, "ip6tables -P INPUT DROP", false},
			{"an earlier drop", "iptables -I FORWARD -i virbr+ -j DROP", firewall.KindDrop, "iptables -A FORWARD -i virbr+ -j DROP", false},
			{"an earlier reject of all", "iptables -I INPUT -j REJECT", firewall.KindDrop, "iptables -A INPUT -j REJECT --reject-with icmp-port-unreachable", false},
			{"a drop in a chain", "iptables -N X; iptables -A X -o virbr0 -j DROP; iptables -I FORWARD -j X", firewall.KindDrop, "iptables -A X -o virbr0 -j DROP", false},
			{
				"an nft policy", "nft add table inet mine; nft add chain inet mine fwd '{ type filter hook forward priority 10; policy drop; }'",
				firewall.KindPolicy, "table inet mine, chain fwd: type filter hook forward", false,
			},
			{"an nft reject", "nft flush table inet mine; nft delete chain inet mine fwd; nft add chain inet mine in '{ type filter hook input priority 0; }'; " +
				"nft add rule inet mine in ct state established accept; nft add rule inet mine in counter reject", firewall.KindDrop, "chain in: counter reject", false},
		} {
			nstest.Exec(h, "sh", "-c", c.setup)
			found := h.conditions(f)
			if len(found) != 1 || found[0].Kind != c.kind || !strings.Contains(found[0].Evidence, c.evidence) || found[0].Harmless != c.harmless {
				h.Errorf("%s: conditions are %+v, want %s with %q", c.name, found, c.kind, c.evidence)
			}
			for _, condition := range found {
				nstest.Exec(h, "sh", "-c", condition.Remedy)
			}
			h.remain(f, c.name)
		}
	})
}

// remain fails the test if conditions are left after their remedies. A policy
// that was only made harmless for guests is none.
func (h *host) remain(f *firewall.Firewall, name string) {
	h.Helper()
	left := slices.DeleteFunc(h.conditions(f), func(c firewall.Condition) bool { return c.Harmless })
	if len(left) > 0 {
		h.Errorf("%s: after the remedy there are %+v", name, left)
	}
	h.iptables(firewall.IPv6, "-P INPUT ACCEPT")
}

// alias makes a program known by another name for the shells of the test.
func (h *host) alias(name, program string) {
	h.Helper()
	dir := h.TempDir()
	if err := os.WriteFile(dir+"/"+name, []byte("#!/bin/sh\nexec /usr/sbin/"+program+" \"$@\"\n"), 0o755); err != nil {
		h.Fatal(err)
	}
	h.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// What others' rules let pass, and narrow rules of the administrator, are no
// conditions. Open networks have no rules of ours that would stand before a
// policy.
func TestConditionsOfOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, natNetwork())
		h.routing("1")
		for _, command := range []string{
			"iptables -I FORWARD -i eno1 -j DROP",
			"iptables -I FORWARD -i virbr0 -d 192.0.2.0/24 -j REJECT",
			"iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP",
			"iptables -A FORWARD -j DROP",
			"nft add table inet fw; nft add chain inet fw zone; nft add chain inet fw fwd '{ type filter hook forward priority 10; policy drop; }'; " +
				`nft add rule inet fw fwd iifname '"virbr*"' jump zone; nft add rule inet fw zone accept; nft add rule inet fw fwd reject`,
		} {
			nstest.Exec(t, "sh", "-c", command)
		}
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("conditions are %+v", got)
		}
		h.set(f, firewall.Network{Bridge: "br7", Mode: firewall.ModeOpen, Subnets: subnets("192.0.2.1/24")})
		h.iptables(firewall.IPv4, "-P FORWARD DROP")
		var kinds []firewall.Kind
		for _, c := range h.conditions(f) {
			if !strings.Contains(c.Summary, "br7") || strings.Contains(c.Summary, "virbr0") || c.Harmless {
				t.Errorf("condition %+v", c)
			}
			kinds = append(kinds, c.Kind)
		}
		if diff := cmp.Diff([]firewall.Kind{firewall.KindPolicy, firewall.KindDrop}, kinds); diff != "" {
			t.Errorf("kinds of conditions (-want +got):\n%s", diff)
		}
	})
}
