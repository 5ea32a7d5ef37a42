package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// expressions are what stands in the kernel, by chain and down to the last byte
// of a comparison: nft's own view of the rules, without handles and counts.
func expressions(t nstest.TB) map[string][]string {
	t.Helper()
	rules, _, _ := strings.Cut(nstest.Exec(t, "nft", "--debug=netlink", "list", "ruleset"), "\ntable ")
	out := map[string][]string{}
	chain := ""
	for line := range strings.Lines(rules) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
		case words[0] != "[":
			chain = strings.Join(words[:3], " ") // family, table, chain
			if words[1] == "vnetd" {
				chain = "" // of no interest here
			}
			out[chain] = append(out[chain], "rule")
		case words[1] == "counter":
			out[chain] = append(out[chain], "counter")
		default:
			out[chain] = append(out[chain], strings.TrimSpace(line))
		}
	}
	delete(out, "")
	return out
}

// renamed is a network of the same kind with other devices and subnets.
func renamed(n firewall.Network, i int) firewall.Network {
	n.Bridge = fmt.Sprintf("br-other%d", i)
	var moved []netip.Prefix
	for j, s := range n.Subnets {
		addr := netip.AddrFrom4([4]byte{172, 20, byte(i), byte(j)})
		if s.Addr().Is6() {
			addr = netip.MustParseAddr(fmt.Sprintf("2001:db8:%d:%d::", 4096+i, j))
		}
		moved = append(moved, netip.PrefixFrom(addr, s.Bits()))
	}
	n.Subnets = moved
	if n.Dev != "" {
		n.Dev = fmt.Sprintf("uplink%d.%d", i, i)
	}
	return n
}

// What is written without iptables-restore stands in the kernel as iptables-restore
// would have written it, is listed as it was rendered, and is known to
// iptables by its text. Deleted, it leaves nothing.
func TestDirectRulesAreThoseOfIPTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		i := 0
		for name, n := range intents() {
			i++
			like := renamed(n, i)
			if len(iptables.Render(n, "")) == 0 {
				continue
			}
			h.set(h.configured(iptables.Config{}), like)
			want := expressions(t)
			nstest.Exec(t, "nft", "flush", "ruleset")

			w := h.wrap()
			f := w.configured(iptables.Config{IPTables: filepath.Join(w.dir, "iptables-nft"), IP6Tables: filepath.Join(w.dir, "ip6tables-nft")})
			h.set(f, n)
			h.set(f, renamed(n, 0)) // rules of all shapes were seen now
			h.delete(f, n)
			h.delete(f, renamed(n, 0))
			w.calls()
			h.set(f, like)
			if diff := cmp.Diff(map[string]int{}, w.calls()); diff != "" {
				t.Errorf("%s: Set executes (-want +got):\n%s", name, diff)
			}
			if diff := cmp.Diff(want, expressions(t)); diff != "" {
				t.Fatalf("%s: expressions (-iptables-restore +direct):\n%s", name, diff)
			}
			for _, r := range f.Rules(like) {
				h.iptables(r.Family, "-t "+r.Table+" -C "+r.Chain+" "+r.Args)
			}
			h.delete(f, like)
			h.expect("after "+name, scaffold(iptables.DefaultPrefix, f.Rules(like)...))
			nstest.Exec(t, "nft", "flush", "ruleset")
		}
	})
}

// A change by others between two of ours is seen before anything is written.
func TestDirectChangeAfterOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, numbered(0), numbered(1), numbered(2))
		h.iptables(firewall.IPv4, "-D LIBVIRT_FWX -i virbr1 -o virbr1 -j ACCEPT")
		h.iptables(firewall.IPv4, "-I LIBVIRT_FWI 3 -o virbr1 -j ACCEPT")
		h.delete(f, numbered(1))
		h.set(f, numbered(3))
		h.iptables(firewall.IPv4, "-D LIBVIRT_FWI -o virbr1 -j ACCEPT")
		h.expect("in the end", libvirt(numbered(3), numbered(2), numbered(0)))
	})
}

// Somebody else changes rules all the while: what was planned on rules that have
// changed since is planned anew.
func TestDirectBesideOthers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		f := h.firewall()
		h.set(f, numbered(0))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			var err error
			for err == nil && ctx.Err() == nil {
				for _, verb := range []string{"-I", "-D"} {
					err = errors.Join(err, exec.Command("iptables-nft", verb, "LIBVIRT_FWX", "-o", "eno1", "-j", "ACCEPT").Run())
				}
			}
			ended <- err
		}()
		for range 3 {
			for i := range 8 {
				h.set(f, numbered(i+1))
			}
			for i := range 7 {
				h.delete(f, numbered(i+1))
			}
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		h.expect("in the end", libvirt(numbered(8), numbered(0)))
	})
}

// Many networks at once are one transaction, however large.
func TestManyNetworksAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		w := h.wrap()
		f := w.firewall()
		h.set(f, numbered(0), numbered(1)) // the rules' forms are known now
		var newestFirst []firewall.Network
		for i := range 300 {
			newestFirst = append([]firewall.Network{numbered(i)}, newestFirst...)
			f.Adopt(numbered(i))
		}
		w.calls()
		if _, err := f.Repair(t.Context()); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(map[string]int{"iptables-save": 1, "ip6tables-save": 1}, w.calls()); diff != "" {
			t.Errorf("Repair executes (-want +got):\n%s", diff)
		}
		h.expect("with all networks", h.unordered(libvirt(newestFirst...)))
		for _, n := range newestFirst {
			h.delete(f, n)
		}
		if diff := cmp.Diff(map[string]int{}, w.calls()); diff != "" {
			t.Errorf("the deletions execute (-want +got):\n%s", diff)
		}
		h.expect("without any", scaffold(iptables.DefaultPrefix))
	})
}

// Forwards to other ports and other guests than were seen are written without iptables as
// well, whatever their form.
func TestDirectForwardsAreThoseOfIPTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		like := forwardsOfAllForms(1)
		h.set(h.configured(iptables.Config{}), like)
		want := expressions(t)
		nstest.Exec(t, "nft", "flush", "ruleset")

		w := h.wrap()
		f := w.configured(iptables.Config{IPTables: filepath.Join(w.dir, "iptables-nft"), IP6Tables: filepath.Join(w.dir, "ip6tables-nft")})
		h.set(f, forwardsOfAllForms(0))
		h.set(f, forwardsOfAllForms(2)) // rules of all shapes were seen now
		w.calls()
		h.set(f, like)
		if diff := cmp.Diff(map[string]int{}, w.calls()); diff != "" {
			t.Errorf("Set executes (-want +got):\n%s\n%s", diff, h.log)
		}
		if diff := cmp.Diff(want, expressions(t)); diff != "" {
			t.Fatalf("expressions (-iptables-restore +direct):\n%s", diff)
		}
		for _, r := range f.Rules(like) {
			h.iptables(r.Family, "-t "+r.Table+" -C "+r.Chain+" "+r.Args)
		}
	})
}

// forwardsOfAllForms is a network with forwards of all forms, with other ports, senders and
// guests for each number.
func forwardsOfAllForms(i uint16) firewall.Network {
	n := numbered(0)
	n.Subnets = append(n.Subnets, subnets("2001:db8:7::1/64")...)
	for at, guest := range []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(2 + i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:7::%x", 2+i))} {
		for j, protocol := range []string{"tcp", "udp", "sctp"} {
			first := 1000 + 300*i + 50*uint16(j)
			for k, ports := range []firewall.PortRange{{Start: first, End: first}, {Start: first + 10, End: first + 17 + i}} {
				for l, to := range []uint16{ports.Start, 100 + first} {
					shift := uint16(20*(2*k+l) + 1)
					forward := firewall.Forward{
						Protocol: protocol, Ports: firewall.PortRange{Start: ports.Start + 2000*shift, End: ports.End + 2000*shift}, To: guest, ToPort: to + 2000*shift,
					}
					if j == 0 {
						forward.From = []netip.Prefix{netip.PrefixFrom(guest.Prev().Prev(), []int{24, 64}[at]).Masked()}
						forward.Address = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(9 + i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8:9::%x", 9+i))}[at]
					}
					n.Forwards = append(n.Forwards, forward)
				}
			}
		}
	}
	return n
}

// Guards of ports change all the while that networks come and go: neither is anything listed
// or planned anew, nor written by a program.
func TestDirectBesideGuards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		w := h.wrap()
		f := w.firewall()
		h.set(f, numbered(0), numbered(1)) // the rules' forms are known now
		h.delete(f, numbered(1))
		other, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		guards := nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: firewall.GuardTable("br0")}
		touch := func() {
			for _, m := range [][]byte{guards.NewTable(0, ""), guards.DeleteTable()} {
				if err := other.Commit([][]byte{m}, 0, func(int, netlink.Message) {}); err != nil {
					t.Error(err)
				}
			}
		}
		w.calls()
		for i := range 50 {
			touch()
			h.set(f, numbered(1+i))
		}
		for i := range 50 {
			var beside sync.WaitGroup
			beside.Go(func() { touch(); touch(); touch() })
			h.delete(f, numbered(1+i))
			beside.Wait()
		}
		if diff := cmp.Diff(map[string]int{}, w.calls()); diff != "" {
			t.Errorf("beside commits to guards there is executed (-want +got):\n%s", diff)
		}
		h.expect("in the end", libvirt(numbered(0)))
	})
}
