package network_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

func TestStartAndStopLeaveNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		before := kernel(t)
		n := h.started(natXML("one", "192.0.2"))
		if info := n.Info(); info.State != api.Active || !info.Active || info.Bridge != "one" {
			t.Errorf("after start: %+v", info)
		}
		if rules := kernel(t); !strings.Contains(rules, "MASQUERADE") || !strings.Contains(rules, "one ") {
			t.Errorf("after start links and rules are\n%s", rules)
		}
		if err := n.Start(t.Context()); network.KindOf(err) != api.InvalidState {
			t.Errorf("second start: %v, want InvalidState", err)
		}
		must(t, n.Stop(t.Context()))
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("after stop (-before +after):\n%s", diff)
		}
		if err := n.Stop(t.Context()); network.KindOf(err) != api.InvalidState {
			t.Errorf("second stop: %v, want InvalidState", err)
		}
		if runs, _, err := h.store.Runs(); len(runs) != 0 || err != nil {
			t.Errorf("after stop the run-state is %v (%v)", runs, err)
		}
		must(t, n.Start(t.Context()))
	})
}

// TestEveryModeStarts starts the five example networks as they stand.
func TestEveryModeStarts(t *testing.T) {
	files, err := filepath.Glob("../../test/testdata/*-network.xml")
	if err != nil || len(files) != 4 {
		t.Fatalf("example networks: %v, %v", files, err)
	}
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge") // the host's own, of bridged-network.xml
		h := newHub(t, t.TempDir(), hubOptions{})
		for _, file := range append(files, "../../configs/default.xml") {
			text, err := os.ReadFile(file)
			must(t, err)
			if info := h.started(string(text)).Info(); info.State != api.Active {
				t.Errorf("%s: %+v", file, info)
			}
		}
		for _, n := range h.Networks() {
			must(t, n.Stop(t.Context()))
		}
	})
}

// realRules is another name for the interface, which has a method Rules.
type realRules = network.Rules

// failing fails where its test wants it to.
type failing struct {
	realRules
	set, del error
}

func (f *failing) Set(ctx context.Context, n firewall.Network) error {
	if f.set != nil {
		return f.set
	}
	return f.realRules.Set(ctx, n)
}

func (f *failing) Delete(ctx context.Context, n firewall.Network) error {
	return errors.Join(f.del, f.realRules.Delete(ctx, n))
}

func TestFailedStartLeavesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		rules := &failing{set: errors.New("no such target")}
		h := newHub(t, t.TempDir(), hubOptions{rules: func(r network.Rules) network.Rules { rules.realRules = r; return rules }})
		before := kernel(t)
		n := h.define(natXML("one", "192.0.2"))
		if err := n.Start(t.Context()); !errors.Is(err, rules.set) {
			t.Fatalf("start: %v, want %v", err, rules.set)
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("after a failed start (-before +after):\n%s", diff)
		}
		if info := n.Info(); info.State != api.Failed || info.Active || !strings.Contains(info.LastError, "no such target") {
			t.Errorf("after a failed start: %+v", info)
		}
		if runs, _, _ := h.store.Runs(); len(runs) != 0 {
			t.Errorf("after a failed start the run-state is %v", runs)
		}
		rules.set = nil
		must(t, n.Start(t.Context()))
		rules.del = errors.New("lock held")
		if err := n.Stop(t.Context()); !errors.Is(err, rules.del) {
			t.Errorf("stop: %v, want %v", err, rules.del)
		}
		rules.del = nil
		must(t, n.Start(t.Context()))
		must(t, n.Stop(t.Context()))
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("in the end (-before +after):\n%s", diff)
		}
	})
}

// TestLostRunState restarts the hub when the file that says that a network is
// active can't be read: its bridge says so, too, by its alias or its MAC address.
func TestLostRunState(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(natXML("one", "192.0.2"))
		h.started(natXML("two", "198.51.100"))
		h.end()
		files, err := filepath.Glob(filepath.Join(h.dirs.Run, "*", "*.json"))
		must(t, err)
		if len(files) != 2 {
			t.Fatalf("run-state of two networks: %v", files)
		}
		for _, file := range files {
			must(t, os.Truncate(file, 10))
		}
		nstest.IP(t, "link set two address 52:54:00:00:00:99")
		nstest.IP(t, "link set two alias another's")
		for range 2 { // the second time from what the first wrote anew
			h = newHub(t, root, hubOptions{})
			if n, err := h.ByName("one"); err != nil || n.Info().State != api.Active {
				t.Errorf("one is %v, %v", n.Info(), err)
			}
			h.end()
		}
		h = newHub(t, root, hubOptions{})
		if n, err := h.ByName("two"); err != nil || n.Info().Active {
			t.Errorf("two, whose bridge is another's: %v, %v", n.Info(), err)
		}
	})
}

func TestStartMeetsTheHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		nstest.IP(t, "link add one type bridge")
		nstest.IP(t, "link add eth7 type veth peer name eth8")
		nstest.IP(t, "addr add 198.51.100.1/24 dev eth7")
		nstest.IP(t, "link set eth7 up")
		nstest.IP(t, "link set eth8 up")
		for xml, say := range map[string]string{
			natXML("one", "192.0.2"):    `a device "one" (bridge) already exists`,
			natXML("two", "198.51.100"): `subnet 198.51.100.0/24 is already in use by interface "eth7"`,
		} {
			n := h.define(xml)
			err := n.Start(t.Context())
			if network.KindOf(err) != api.Conflict || !strings.Contains(err.Error(), say) {
				t.Errorf("start: %v, want a Conflict that says %s", err, say)
			}
		}
		if !linkExists("one") || linkExists("two") {
			t.Error("a start that was refused touched links")
		}
	})
}

// TestPortTaken starts a network where another server has the port of DHCP.
func TestPortTaken(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		before := kernel(t)
		taken, err := net.ListenPacket("udp", ":67")
		must(t, err)
		n := h.define(natXML("one", "192.0.2"))
		if err := n.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "67") {
			t.Errorf("start: %v, want an error that names the port", err)
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("after a failed start (-before +after):\n%s", diff)
		}
		must(t, taken.Close())
		must(t, n.Start(t.Context()))
	})
}

func TestAdoption(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(natXML("one", "192.0.2"))
		h.define(natXML("two", "198.51.100"))
		_, err := h.Create(t.Context(), []byte(natXML("three", "203.0.113")))
		must(t, err)
		one, err := net.InterfaceByName("one")
		must(t, err)
		before := kernel(t)
		h.end()

		h = newHub(t, root, hubOptions{})
		again, err := net.InterfaceByName("one")
		if err != nil || again.Index != one.Index {
			t.Errorf("the bridge was made anew: %v, %v", again, err)
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("after adoption (-before +after):\n%s", diff)
		}
		for name, want := range map[string]struct {
			state      api.State
			persistent bool
		}{
			"one": {api.Active, true}, "two": {api.Inactive, true}, "three": {api.Active, false},
		} {
			n, err := h.ByName(name)
			must(t, err)
			if info := n.Info(); info.State != want.state || info.Persistent != want.persistent {
				t.Errorf("after adoption: %+v, want %+v", info, want)
			}
		}
	})
}

// TestHalfMadeIsCleared finds what a vnetd left that was killed while it
// started one network and stopped another.
func TestHalfMadeIsCleared(t *testing.T) {
	for _, phase := range []store.Phase{store.Starting, store.Stopping} {
		t.Run(string(phase), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				root := t.TempDir()
				h := newHub(t, root, hubOptions{})
				before := kernel(t)
				n := h.started(natXML("one", "192.0.2"))
				live, err := netdef.Parse(n.XML(true))
				must(t, err)
				must(t, h.store.SaveRun(store.Run{Phase: phase, Network: live, Persistent: true}))
				h.end()

				h = newHub(t, root, hubOptions{})
				if diff := cmp.Diff(before, kernel(t)); diff != "" {
					t.Errorf("after recovery (-before +after):\n%s", diff)
				}
				n, err = h.ByName("one")
				must(t, err)
				if state := n.Info().State; state != api.Inactive {
					t.Errorf("after recovery the network is %s", state)
				}
				must(t, n.Start(t.Context()))
			})
		})
	}
}

// TestBridgeComesBack deletes the bridge of a network with a port by hand.
func TestBridgeComesBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{})
		defer f.Close()
		rules := kernel(t)
		nstest.IP(t, "link del one")
		until(t, "the port is back on a bridge", func() bool { return h.master(info.IfName) == "one" })
		until(t, "DNS answers on the new bridge", func() bool { return resolves(t, "myhost", "192.0.2.10") })
		if diff := cmp.Diff(rules, kernel(t)); diff != "" {
			t.Errorf("links and rules (-before +after):\n%s", diff)
		}
	})
}

// resolves reports whether DNS of the network 192.0.2.0/24 says that a name has that address.
func resolves(t *testing.T, name, address string) bool {
	c := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "192.0.2.1:53")
	}}
	addrs, err := c.LookupHost(t.Context(), name)
	return err == nil && len(addrs) == 1 && addrs[0] == address
}

// TestChangeBringsBridgeBack deletes the bridge of a network by hand, which a change makes anew
// before anybody else sees that: it serves there, as it is from now on.
func TestChangeBringsBridgeBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(natXML("one", "192.0.2"))
		nstest.IP(t, "link del one")
		h.define(strings.Replace(natXML("one", "192.0.2"), "192.0.2.10", "192.0.2.20", 1))
		until(t, "DNS answers on the new bridge", func() bool { return resolves(t, "myhost", "192.0.2.20") })
	})
}

// counting counts how often each network's rules are set.
type counting struct {
	realRules
	mu  sync.Mutex
	set map[string]int // by bridge
}

func (c *counting) Set(ctx context.Context, n firewall.Network) error {
	c.mu.Lock()
	c.set[n.Bridge]++
	c.mu.Unlock()
	return c.realRules.Set(ctx, n)
}

// TestRepairLeavesOthersAlone: neither a network that stops nor one that loses
// its bridge has work done on others.
func TestRepairLeavesOthersAlone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		rules := &counting{set: make(map[string]int)}
		h := newHub(t, t.TempDir(), hubOptions{rules: func(r network.Rules) network.Rules { rules.realRules = r; return rules }})
		h.started(natXML("lost", "198.51.100"))
		lose := func() {
			t.Helper()
			nstest.IP(t, "link del lost")
			until(t, "the bridge is back", func() bool { return linkExists("lost") && strings.Contains(kernel(t), " lost ") })
		}
		lose() // from here on the watch looks at single links
		h.started(natXML("innocent", "192.0.2"))
		stopped := h.started(natXML("stopped", "203.0.113"))
		must(t, stopped.Stop(t.Context()))
		lose()
		must(t, stopped.Start(t.Context()))
		h.end() // no repair is under way any more
		delete(rules.set, "lost")
		if diff := cmp.Diff(map[string]int{"innocent": 1, "stopped": 2}, rules.set); diff != "" {
			t.Errorf("rules were set (-want +got):\n%s", diff)
		}
	})
}

func TestCleanup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		before := kernel(t)
		h := newHub(t, root, hubOptions{})
		h.started(natXML("one", "192.0.2"))
		n := h.started(natXML("two", "198.51.100"))
		_, f := h.port(n, network.PortOptions{})
		defer f.Close()
		h.end()

		h = newHub(t, root, hubOptions{bare: true})
		must(t, h.Cleanup(t.Context()))
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("after cleanup (-before +after):\n%s", diff)
		}
		if chains := nstest.Exec(t, "iptables-save"); strings.Contains(chains, "LIBVIRT_") {
			t.Errorf("after cleanup chains are left:\n%s", chains)
		}
		h.end()
		h = newHub(t, root, hubOptions{})
		if all := h.Networks(); len(all) != 2 || all[0].Info().Active {
			t.Errorf("after cleanup the networks are %v", all)
		}
	})
}

// TestRulesComeBack flushes what a network has in the firewall.
func TestRulesComeBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(natXML("one", "192.0.2"))
		before := kernel(t)
		nstest.Exec(t, "iptables", "-F")
		nstest.Exec(t, "iptables", "-t", "nat", "-F")
		until(t, "the rules are back", func() bool { return kernel(t) == before })
	})
}
