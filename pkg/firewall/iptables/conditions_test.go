package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
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

// routing makes the host forward packets, but not those within a bridge, and
// answer all that it rejects.
func (h *host) routing() {
	h.Helper()
	for path, value := range map[string]string{
		"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/icmp_ratelimit": "0",
		"bridge/bridge-nf-call-iptables": "0", "bridge/bridge-nf-call-ip6tables": "0",
	} {
		if err := os.WriteFile("/proc/sys/net/"+path, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			h.Fatal(err)
		}
	}
}

// uplink makes a way out by eno1.
func (h *host) uplink() {
	h.Helper()
	h.shell()("ip link add eno1 type veth peer name eno1p; ip link set eno1p up; ip addr add 203.0.113.2/24 dev eno1; ip link set eno1 up; ip route add default via 203.0.113.1")
}

// What cuts guests off is named with its evidence, and is gone when the remedy
// was carried out to the letter.
func TestConditions(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, intents()["nat66"], intents()["isolated"])
		sh := h.shell()
		h.routing()
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
			{"INPUT policy of IPv6", "ip6tables -P INPUT DROP", firewall.KindPolicy, "ip6tables -P INPUT DROP", false},
			{"br_netfilter", "sysctl -qw net.bridge.bridge-nf-call-iptables=1", firewall.KindBridgeNetfilter, "net.bridge.bridge-nf-call-iptables = 1", true},
			{"an earlier drop", "iptables -I FORWARD -i virbr+ -j DROP", firewall.KindDrop, "iptables -A FORWARD -i virbr+ -j DROP", false},
			{"an earlier reject of all", "iptables -I INPUT -j REJECT", firewall.KindDrop, "iptables -A INPUT -j REJECT --reject-with icmp-port-unreachable", false},
			{"a drop in a chain", "iptables -N X; iptables -A X -o virbr0 -j DROP; iptables -I FORWARD -j X", firewall.KindDrop, "iptables -A X -o virbr0 -j DROP", false},
			{
				"an nft policy", "nft add table inet mine; nft add chain inet mine fo '{ type filter hook forward priority 10; policy drop; }'",
				firewall.KindPolicy, "table inet mine, chain fo: type filter hook forward", false,
			},
			{"an nft reject", "nft flush table inet mine; nft delete chain inet mine fo; nft add chain inet mine in '{ type filter hook input priority 0; }'; " +
				"nft add rule inet mine in ct state established accept; nft add rule inet mine in counter reject", firewall.KindDrop, "chain in: counter reject", false},
			{
				"a kill switch", "nft delete table inet mine; nft add table inet ks; nft add chain inet ks out '{ type filter hook output priority 0; policy drop; }'; nft add rule inet ks out oifname lo accept",
				firewall.KindPolicy, "table inet ks, chain out: type filter hook output", false,
			},
			{"a drop before routing", "iptables -t raw -I PREROUTING -i virbr0 -j DROP", firewall.KindDrop, "iptables -t raw -A PREROUTING -i virbr0 -j DROP", false},
			{
				"ARP", "nft add table arp fw; nft add chain arp fw in '{ type filter hook input priority 0; policy drop; }'",
				firewall.KindPolicy, "table arp fw, chain in: type filter hook input", false,
			},
			{
				"a published port 53", "iptables -t nat -A PREROUTING -p udp --dport 53 -j DNAT --to-destination 172.17.0.2:53",
				firewall.KindDiverted, "iptables -t nat -A PREROUTING -p udp -m udp --dport 53 -j DNAT --to-destination 172.17.0.2:53", false,
			},
			{
				"a rate", "nft add table inet rate; nft add chain inet rate in '{ type filter hook input priority 5; }'; nft add rule inet rate in udp dport 53 limit rate over 9/second drop",
				firewall.KindUnclear, "table inet rate, chain in: udp dport 53 limit rate over 9/second", true,
			},
		} {
			sh(c.setup)
			found := h.conditions(f)
			if len(found) != 1 || found[0].Kind != c.kind || !strings.Contains(found[0].Evidence, c.evidence) || found[0].Harmless != c.harmless {
				h.Errorf("%s: conditions are %+v, want %s with %q", c.name, found, c.kind, c.evidence)
			}
			for _, condition := range found {
				sh(condition.Remedy)
			}
			h.remain(f, c.name)
		}
	})
}

// What a network's own policy refuses is meant. What the administrator's chain drops is named
// all the same.
func TestConditionsOfPolicies(t *testing.T) {
	onKernel(t, func(h *host) {
		f := h.firewall()
		h.set(f, with(intents()["nat66"], func(n *firewall.Network) {
			n.Policy.Egress, n.Policy.Ingress = firewall.ActionReject, firewall.ActionDrop
		}))
		h.routing()
		sh := h.shell()
		h.uplink()
		if got := h.conditions(f); len(got) != 0 {
			h.Errorf("beside a policy: %+v", got)
		}
		sh("iptables -A VNETD_USER_INP -i virbr0 -j DROP")
		if got := h.conditions(f); len(got) != 1 || got[0].Kind != firewall.KindDrop || !strings.Contains(got[0].Summary, "VNETD_USER_INP") {
			h.Errorf("beside a drop of the administrator's: %+v", got)
		}
	})
}

// What networks' own tables of nftables refuse is meant, and says nothing of a network that has a bridge of
// another's name since: only what others change has the rules listed anew.
func TestConditionsBesideOwnTables(t *testing.T) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		f := firewall.New(nft.New(nft.Config{}), firewall.Config{})
		h.Cleanup(func() {
			if err := f.Close(); err != nil {
				h.Errorf("Close: %v", err)
			}
		})
		h.routing()
		h.uplink()
		networks := []firewall.Network{
			natNetwork(),
			with(natNetwork(), func(n *firewall.Network) { n.Subnets = subnets("198.51.100.1/24") }),
			with(natNetwork(), func(n *firewall.Network) {
				n.Policy.Egress, n.Policy.Ingress = firewall.ActionReject, firewall.ActionDrop
			}),
		}
		for _, foreign := range []uint32{1, 0} { // listed once, and each time
			for i, n := range networks {
				h.set(f, n)
				if got, err := observer.Conditions(h.Context(), foreign, []firewall.Network{n}); err != nil || len(got) != 0 {
					h.Errorf("foreign %d, network %d: %v, %+v", foreign, i, err, got)
				}
			}
		}
	})
}

// Frames that a table of the family bridge drops are guests' as well, and what a named
// set accepts is no alarm.
func TestConditionsOfFamilies(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, natNetwork())
		h.routing()
		sh := h.shell()
		sh(`nft add table inet fw; nft add set inet fw lan '{ type ifname; elements = { "lo", "virbr0" } ; }'; nft add chain inet fw in '{ type filter hook input priority 0; policy drop; }'; nft add rule inet fw in iifname @lan accept`)
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("beside a set that names the bridge: %+v", got)
		}
		sh("nft delete element inet fw lan '{ virbr0 }'")
		if got := h.conditions(f); len(got) != 1 || got[0].Kind != firewall.KindPolicy || !slices.Equal(got[0].Bridges, []string{"virbr0"}) {
			t.Errorf("beside a set without the bridge: %+v", got)
		}
		sh("nft delete table inet fw; nft add table bridge bf; nft add chain bridge bf in '{ type filter hook input priority 0; policy drop; }'")
		got := h.conditions(f)
		if len(got) != 1 || !strings.Contains(got[0].Evidence, "table bridge bf, chain in") || got[0].Remedy != "nft insert rule bridge bf in meta ibrname virbr0 accept" {
			t.Errorf("beside a policy of the family bridge: %+v", got)
		}
		sh("nft delete table bridge bf")
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("after the mending: %+v", got)
		}
	})
}

// What a family does not do concerns no network that has not got it.
func TestConditionsOfOneFamily(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, firewall.Network{Bridge: "virbr6", Mode: firewall.ModeRoute, Subnets: subnets("2001:db8::1/64")})
		h.routing()
		h.shell()("echo 0 >/proc/sys/net/ipv4/ip_forward")
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("without IPv4 forwarding an IPv6 network has %+v", got)
		}
		h.shell()("echo 0 >/proc/sys/net/ipv6/conf/all/forwarding")
		if got := h.conditions(f); len(got) != 1 {
			t.Errorf("without IPv6 forwarding it has %+v", got)
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

// shell runs commands to which iptables is the host's variant.
func (h *host) shell() func(commands string) {
	h.Helper()
	dir := h.TempDir()
	for name, f := range map[string]firewall.Family{"iptables": firewall.IPv4, "ip6tables": firewall.IPv6} {
		script := "#!/bin/sh\nexec /usr/sbin/" + h.program(f) + " \"$@\"\n"
		if err := os.WriteFile(dir+"/"+name, []byte(script), 0o755); err != nil {
			h.Fatal(err)
		}
	}
	return func(commands string) {
		h.Helper()
		nstest.Exec(h, "env", "PATH="+dir+":"+os.Getenv("PATH"), "sh", "-ec", commands)
	}
}

// What others' rules let pass, and narrow rules of the administrator, are no
// conditions. Open networks have no rules of ours that would stand before a
// policy.
func TestConditionsOfOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, natNetwork())
		h.routing()
		for _, command := range []string{
			"iptables -I FORWARD -i eno1 -j DROP",
			"iptables -I FORWARD -i virbr0 -d 192.0.2.0/24 -j REJECT",
			"iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP",
			"iptables -A FORWARD -j DROP", "iptables -P FORWARD DROP", "iptables -P INPUT DROP",
			"nft add table inet fw; nft add chain inet fw zone; nft add chain inet fw fo '{ type filter hook forward priority 10; policy drop; }'; " +
				`nft add rule inet fw fo iifname '"virbr*"' jump zone; nft add rule inet fw zone accept; nft add rule inet fw fo reject`,
		} {
			nstest.Exec(t, "sh", "-c", command)
		}
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("conditions are %+v", got)
		}
		h.set(f, firewall.Network{Bridge: "br7", Mode: firewall.ModeOpen, Subnets: subnets("192.0.2.1/24")})
		var kinds []firewall.Kind
		for _, c := range h.conditions(f) {
			if !strings.Contains(c.Summary, "br7") || strings.Contains(c.Summary, "virbr0") || c.Harmless {
				t.Errorf("condition %+v", c)
			}
			kinds = append(kinds, c.Kind)
		}
		if diff := cmp.Diff([]firewall.Kind{firewall.KindDrop, firewall.KindPolicy}, kinds); diff != "" {
			t.Errorf("kinds of conditions (-want +got):\n%s", diff)
		}
	})
}

// Nothing is executed as long as nobody else has changed a rule: a context that
// has ended does not matter.
func TestConditionsRemembered(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, natNetwork())
		h.routing()
		h.iptables(firewall.IPv4, "-I FORWARD -i virbr0 -j DROP")
		want := h.conditions(f)
		ended, end := context.WithCancel(t.Context())
		end()
		got, err := f.Conditions(ended)
		if diff := cmp.Diff(want, got); diff != "" || err != nil || len(want) != 1 {
			t.Errorf("looking again: %v, conditions (-want +got):\n%s", err, diff)
		}
		if diff := cmp.Diff([]string{"virbr0"}, want[0].Bridges); diff != "" {
			t.Errorf("bridges (-want +got):\n%s", diff)
		}
		h.iptables(firewall.IPv4, "-I FORWARD -i virbr+ -j DROP")
		h.conditions(f)
		h.set(f, with(natNetwork(), func(n *firewall.Network) { n.Bridge, n.Subnets = "virbr1", subnets("198.51.100.1/24") }))
		got, err = f.Conditions(ended)
		if err != nil || len(got) != 1 || !slices.Equal(got[0].Bridges, []string{"virbr0", "virbr1"}) {
			t.Errorf("with one more network: %v, %+v, want the drop of all bridges for virbr1, too", err, got)
		}
		h.iptables(firewall.IPv4, "-D FORWARD -i virbr+ -j DROP")
		h.iptables(firewall.IPv4, "-D FORWARD -i virbr0 -j DROP")
		if _, err := f.Conditions(ended); err == nil {
			t.Error("a change was not looked at")
		}
		if got := h.conditions(f); len(got) != 0 {
			t.Errorf("after the mending: %+v", got)
		}
	})
}

// While rules change faster than they can be listed nothing is found, and no program started that
// would come to no end; what was found is, as soon as they are left alone.
func TestConditionsWhileRulesChange(t *testing.T) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		h.routing()
		networks := []firewall.Network{natNetwork()}
		stop := commitAgainAndAgain(h.T, time.Millisecond)
		defer stop()
		for _, foreign := range []uint32{0, 1} {
			nstest.Eventually(h.T, 30*time.Second, "a refusal", func() error {
				if _, err := observer.Conditions(h.Context(), foreign, networks); !errors.Is(err, firewall.ErrChanging) {
					return fmt.Errorf("foreign %d, while rules change: %w, want %w", foreign, err, firewall.ErrChanging)
				}
				return nil
			})
		}
		stop()
		if _, err := observer.Conditions(h.Context(), 1, networks); err != nil {
			h.Errorf("when they are left alone: %v", err)
		}
		stop = commitAgainAndAgain(h.T, time.Millisecond)
		defer stop()
		if _, err := observer.Conditions(h.Context(), 1, networks); err != nil {
			h.Errorf("nobody but vnetd has changed any: %v", err)
		}
	})
}

// listSlowly has the program that lists rules take so long, and list nothing. Each writes a line to begun
// first.
func (h *host) listSlowly(long time.Duration) (begun string) {
	h.Helper()
	nstest.Exec(h.T, "nft", "add", "table", "inet", "other")
	dir := h.TempDir()
	begun = filepath.Join(dir, "begun")
	slow := fmt.Sprintf("#!/bin/sh\necho >>%s\nexec sleep %v\n", begun, long.Seconds())
	if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(slow), 0o755); err != nil {
		h.Fatal(err)
	}
	h.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return begun
}

// A program that lists rules when they begin to change all the time, or every now and then, is ended: it
// would come to no end.
func TestListWhenRulesBeginToChange(t *testing.T) {
	for name, pause := range map[string]time.Duration{"all the time": time.Millisecond, "every now and then": 400 * time.Millisecond} {
		t.Run(name, func(t *testing.T) { listWhenRulesBeginToChange(t, pause) })
	}
}

func listWhenRulesBeginToChange(t *testing.T, pause time.Duration) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		h.routing()
		begun := h.listSlowly(20 * time.Second)
		var found []firewall.Condition
		var err error
		var asking sync.WaitGroup
		asking.Go(func() { found, err = observer.Conditions(h.Context(), 1, []firewall.Network{natNetwork()}) })
		nstest.Eventually(h.T, 10*time.Second, "the program runs", func() error { _, err := os.Stat(begun); return err })
		stop := commitAgainAndAgain(h.T, pause)
		asking.Wait()
		stop()
		if !errors.Is(err, firewall.ErrChanging) || found != nil {
			h.Errorf("%+v, %v, want %v", found, err, firewall.ErrChanging)
		}
	})
}

// The more programs were ended in vain, the later the next is begun.
func TestListAgainLaterAndLater(t *testing.T) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		h.routing()
		begun := h.listSlowly(20 * time.Second)
		defer commitAgainAndAgain(h.T, 700*time.Millisecond)()
		for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if _, err := observer.Conditions(h.Context(), 1, []firewall.Network{natNetwork()}); !errors.Is(err, firewall.ErrChanging) {
				h.Fatalf("while rules change: %v, want %v", err, firewall.ErrChanging)
			}
		}
		text, err := os.ReadFile(begun)
		if n := strings.Count(string(text), "\n"); err != nil || n > 4 {
			h.Errorf("in 15 seconds %d programs were begun, %v; want 4 at most", n, err)
		}
	})
}

// Programs that come to their ends between changes are let, however many there are, and however long all of
// them take.
func TestListBetweenChanges(t *testing.T) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		h.routing()
		for _, family := range []string{"ip", "ip6", "inet", "arp", "bridge"} {
			nstest.Exec(h.T, "nft", "add", "table", family, "other")
		}
		dir := h.TempDir()
		slow := "#!/bin/sh\nsleep 0.35\ncase \" $* \" in *json*) echo '{\"nftables\":[]}';; esac\n"
		if err := os.WriteFile(filepath.Join(dir, "nft"), []byte(slow), 0o755); err != nil {
			h.Fatal(err)
		}
		h.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		defer commitAgainAndAgain(h.T, time.Second)()
		nstest.Eventually(h.T, 40*time.Second, "an answer before patience is at its end", func() error {
			_, err := observer.Conditions(h.Context(), 0, []firewall.Network{natNetwork()})
			return err
		})
	})
}

// Rules that change in bursts, between which nobody could list them, are listed all the same after a while.
func TestListBetweenBursts(t *testing.T) {
	onKernel(t, func(h *host) {
		observer := iptables.Observe(h.Context(), iptables.Config{IPTables: h.program(firewall.IPv4), IP6Tables: h.program(firewall.IPv6)})
		observer.SetPatience(4 * time.Second)
		h.routing()
		h.listSlowly(2 * time.Second)
		ctx, end := context.WithCancel(h.Context())
		var bursts sync.WaitGroup
		defer bursts.Wait()
		defer end()
		bursts.Go(func() {
			for ctx.Err() == nil {
				stop := commitAgainAndAgain(h.T, time.Millisecond)
				time.Sleep(1600 * time.Millisecond)
				stop()
				time.Sleep(300 * time.Millisecond)
			}
		})
		refused := 0
		nstest.Eventually(h.T, time.Minute, "an answer", func() error {
			_, err := observer.Conditions(h.Context(), 1, []firewall.Network{natNetwork()})
			if errors.Is(err, firewall.ErrChanging) {
				refused++
				return err
			}
			return nil
		})
		if refused == 0 {
			h.Error("the first burst did not put it off")
		}
	})
}

// commitAgainAndAgain has a table come and go, with such a pause between, until the caller calls what it
// returns.
func commitAgainAndAgain(t *testing.T, pause time.Duration) (stop func()) {
	t.Helper()
	socket, err := nfnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	place := nfnetlink.Place{Family: unix.NFPROTO_INET, Table: "busy"}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			for _, message := range [][]byte{place.NewTable(0, ""), place.DeleteTable()} {
				if err := socket.Commit([][]byte{message}, 0, nil); err != nil {
					t.Errorf("committing: %v", err)
				}
			}
			time.Sleep(pause)
		}
	}()
	return sync.OnceFunc(func() { end(); <-done; _ = socket.Close() })
}
