package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"golang.org/x/sys/unix"
)

func TestEnsureMakesTheBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		index := ensure(t, newBridges(t), defaultConfig())
		got := show(t, name)
		if got.Index != index || got.Info.Kind != "bridge" || got.Address != mac || got.MTU != 1500 {
			t.Errorf("index %d, link %+v", index, got)
		}
		if !slices.Contains(got.Flags, "UP") {
			t.Errorf("flags %v, want UP", got.Flags)
		}
		want := []shownAddr{
			{Local: "192.168.122.1", Bits: 24, Broadcast: "192.168.122.255", Scope: "global"},
			{Local: "2001:db8:122::1", Bits: 64, Scope: "global", NoDAD: true},
		}
		if diff := cmp.Diff(want, got.Addrs); diff != "" {
			t.Errorf("addresses (-want +got):\n%s", diff)
		}
		for key, want := range map[string]string{"disable_ipv6": "0", "accept_ra": "0", "autoconf": "0"} {
			if got := sysctl(t, "ipv6/conf/virbr0/"+key); got != want {
				t.Errorf("%s = %s, want %s", key, got, want)
			}
		}
		for _, family := range []string{"ipv4", "ipv6"} {
			if got := sysctl(t, family+"/neigh/virbr0/unres_qlen_bytes"); got != "16384" {
				t.Errorf("%s: %s bytes wait for a neighbour", family, got)
			}
		}
	})
}

func TestEnsureWithoutIPv6Address(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := defaultConfig()
		cfg.Addrs = cfg.Addrs[:1]
		ensure(t, newBridges(t), cfg)
		for key, want := range map[string]string{"disable_ipv6": "1", "accept_ra": "0", "autoconf": "0"} {
			if got := sysctl(t, "ipv6/conf/virbr0/"+key); got != want {
				t.Errorf("%s = %s, want %s", key, got, want)
			}
		}
	})
}

func TestEnsureTwiceIsSilent(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		for i, tree := range []struct {
			stp   bool
			delay time.Duration
		}{
			{true, 0},
			{false, 0},
			{true, 4250 * time.Millisecond}, // rounded by a kernel of 250 ticks a second
		} {
			cfg := defaultConfig()
			cfg.Name, cfg.STP, cfg.ForwardDelay, cfg.MTU = fmt.Sprintf("virbr%d", i), tree.stp, tree.delay, 9000
			cfg.Addrs = prefixes(fmt.Sprintf("192.0.2.%d/25", i+1), fmt.Sprintf("2001:db8:%d::1/64", i+1))
			heard := monitorFamilies(t)
			index := ensure(t, b, cfg)
			nstest.IP(t, "link show dev "+cfg.Name) // what is under way in the kernel takes effect
			nstest.Eventually(t, soon, "the kernel tells of the IPv6 address, late as always", func() error {
				if !slices.Contains(heard(index), unix.AF_INET6) {
					return errors.New("not yet")
				}
				return nil
			})
			if again := ensure(t, b, cfg); again != index {
				t.Errorf("the second Ensure gave index %d, the first %d", again, index)
			}
			if messages := heard(index); len(messages) != 0 {
				t.Errorf("the second Ensure changed something: messages of families %v", messages)
			}
			cfg.MTU = 1400
			ensure(t, b, cfg)
			if len(heard(index)) == 0 {
				t.Errorf("the monitor didn't hear a change of the MTU")
			}
		}
	})
}

// becomesSilent fails unless a further Ensure changes nothing, once what is under
// way in the kernel has taken effect.
func becomesSilent(t *testing.T, b *bridge.Bridges, cfg bridge.Config) {
	t.Helper()
	nstest.Eventually(t, soon, "Ensure is silent", func() error {
		heard := monitor(t)
		if n := heard(ensure(t, b, cfg)); n != 0 {
			return fmt.Errorf("%d messages", n)
		}
		return nil
	})
}

// monitor listens to changes of links and addresses. What it returns counts
// those of the link with that index since it was last called.
func monitor(t *testing.T) (heard func(index int) int) {
	t.Helper()
	families := monitorFamilies(t)
	return func(index int) int {
		t.Helper()
		return len(families(index))
	}
}

// monitorFamilies is monitor with the family of each: AF_UNSPEC is about the
// link, others are about an address.
func monitorFamilies(t *testing.T) (heard func(index int) (families []byte)) {
	t.Helper()
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return func(index int) (families []byte) {
		t.Helper()
		nstest.IP(t, "link add marker type bridge")
		marker := show(t, "marker").Index
		nstest.IP(t, "link del marker")
		for {
			msgs, _, err := s.Receive()
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range msgs {
				// Both struct ifinfomsg and struct ifaddrmsg have the index there.
				of := int(nl.NativeEndian().Uint32(m.Data[4:]))
				if of == index {
					families = append(families, m.Data[0])
				}
				if of == marker && m.Header.Type == unix.RTM_DELLINK {
					return families
				}
			}
		}
	}
}

func TestEnsureBringsBackWhatAnAdminChanged(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MTU = 1500
		ensure(t, b, cfg)
		want := show(t, name)
		for _, change := range []string{
			"link set virbr0 address 52:54:00:5e:00:99",
			"link set virbr0 mtu 1400",
			"link set virbr0 type bridge stp_state 0",
			"link set virbr0 type bridge forward_delay 700",
			"link set virbr0 down",
			"addr flush dev virbr0",
			"addr del 192.168.122.1/24 dev virbr0",
			"addr del 2001:db8:122::1/64 dev virbr0",
			"link del virbr0",
		} {
			nstest.IP(t, change)
			if exists(t, name) && cmp.Equal(want, show(t, name)) {
				t.Errorf("%s changed nothing", change)
			}
			want.Index = ensure(t, b, cfg)
			got := show(t, name)
			sortAddrs(got.Addrs)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("after %q (-want +got):\n%s", change, diff)
			}
		}
		setSysctl(t, "ipv6/conf/virbr0/accept_ra", "2")
		setSysctl(t, "ipv6/conf/virbr0/disable_ipv6", "1")
		ensure(t, b, cfg)
		if diff := cmp.Diff(want, show(t, name)); diff != "" {
			t.Errorf("after switching IPv6 off (-want +got):\n%s", diff)
		}
		if got := sysctl(t, "ipv6/conf/virbr0/accept_ra"); got != "0" {
			t.Errorf("accept_ra = %s", got)
		}
	})
}

func TestBridgeKeepsItsMAC(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		check := func(when string) {
			t.Helper()
			if got := show(t, name).Address; got != mac {
				t.Errorf("%s: MAC address %s, want %s", when, got, mac)
			}
		}
		check("without ports")
		f, port := openTAP(t, "vnet0")
		nstest.IP(t, "link set vnet0 address 02:00:00:00:00:01")
		attach(t, b, index, port, bridge.PortConfig{})
		check("with a port of a lower address")
		_ = f.Close()
		check("after the last port went")
	})
}

func TestMTU(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		fixed, auto := defaultConfig(), defaultConfig()
		fixed.Name, fixed.MTU = "fixed", 1500
		auto.Name = "auto"
		auto.MAC, auto.Addrs = parseMAC("52:54:00:5e:00:02"), nil
		fixedIndex, autoIndex := ensure(t, b, fixed), ensure(t, b, auto)
		for i, tt := range []struct {
			bridge         string
			index          int
			mtu            int
			atPort, atBrid int
		}{
			{"fixed", fixedIndex, 0, 1500, 1500},
			{"fixed", fixedIndex, 1400, 1400, 1500},
			{"auto", autoIndex, 0, 1500, 1500},
			{"auto", autoIndex, 1400, 1400, 1400},
			{"auto", autoIndex, 0, 1400, 1400}, // inherits what the one before made of it
		} {
			tap := fmt.Sprintf("vnet%d", i)
			_, port := openTAP(t, tap)
			attach(t, b, tt.index, port, bridge.PortConfig{MTU: tt.mtu})
			if got := show(t, tap).MTU; got != tt.atPort {
				t.Errorf("%d: port has MTU %d, want %d", i, got, tt.atPort)
			}
			if got := show(t, tt.bridge).MTU; got != tt.atBrid {
				t.Errorf("%d: bridge has MTU %d, want %d", i, got, tt.atBrid)
			}
		}
	})
}

// TestSmallPort plugs a small port into a bridge whose MTU nobody set, which makes the
// bridge as small: the ports that were there keep theirs, however often they are looked
// at, and the bridge grows again with them.
func TestSmallPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MTU = 0
		index := ensure(t, b, cfg)
		_, one := openTAP(t, "vnet0")
		attach(t, b, index, one, bridge.PortConfig{})
		nstest.IP(t, "link add small type veth peer name far")
		nstest.IP(t, "link set small mtu 1400 master virbr0")
		if got := show(t, "virbr0").MTU; got != 1400 {
			t.Fatalf("the bridge has MTU %d, want that of its least port", got)
		}
		attach(t, b, index, one, bridge.PortConfig{})
		nstest.IP(t, "link del small")
		attach(t, b, index, one, bridge.PortConfig{})
		for _, name := range []string{"vnet0", "virbr0"} {
			if got := show(t, name).MTU; got != 1500 {
				t.Errorf("%s has MTU %d, want 1500", name, got)
			}
		}
	})
}

// TestSmallMTU makes bridges on which the kernel has no IPv6.
func TestSmallMTU(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.Addrs = slices.DeleteFunc(cfg.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
		for _, mtu := range []int{68, 1279, 1280} {
			cfg.MTU = mtu
			ensure(t, b, cfg)
			if got := show(t, cfg.Name).MTU; got != mtu {
				t.Errorf("the bridge has MTU %d, want %d", got, mtu)
			}
		}
		// What a port with a small MTU makes of a bridge that has none of its own.
		cfg.Name, cfg.MTU, cfg.MAC = "auto", 0, parseMAC("52:54:00:5e:00:02")
		cfg.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
		index := ensure(t, b, cfg)
		_, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{MTU: 1200})
		ensure(t, b, cfg)
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix("2001:db8::1/64"))
		_, err := b.Ensure(t.Context(), cfg)
		if err == nil || !strings.Contains(err.Error(), `the kernel has no IPv6 on "auto": its MTU is 1200, want at least 1280`) {
			t.Errorf("IPv6 on a bridge with a small MTU: %v", err)
		}
		attach(t, b, index, port, bridge.PortConfig{MTU: 1500})
		ensure(t, b, cfg)
	})
}

func TestFailedEnsureLeavesNothing(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		for _, change := range []func(*bridge.Config){
			func(c *bridge.Config) { c.MTU = 70000 },
			func(c *bridge.Config) { c.MTU = -1 },
			func(c *bridge.Config) { c.MAC = nil },
			func(c *bridge.Config) { c.MAC = parseMAC("01:00:5e:00:00:01") },
			func(c *bridge.Config) { c.ForwardDelay = -time.Second },
			func(c *bridge.Config) { c.Addrs = prefixes("192.0.2.1/24", "ff02::1/64") }, // refused by the kernel
			func(c *bridge.Config) { c.Addrs = []netip.Prefix{{}} },
		} {
			cfg := defaultConfig()
			change(&cfg)
			if _, err := b.Ensure(t.Context(), cfg); err == nil {
				t.Errorf("Ensure(%+v) succeeded", cfg)
			} else if !strings.Contains(err.Error(), name) {
				t.Errorf("error %q doesn't name the bridge", err)
			}
			if exists(t, name) {
				t.Errorf("Ensure(%+v) left the bridge", cfg)
				nstest.IP(t, "link del virbr0")
			}
		}
	})
}

func TestFailedEnsureKeepsABridgeThatWasThere(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		ensure(t, b, cfg)
		cfg.Addrs = prefixes("ff02::1/64")
		if _, err := b.Ensure(t.Context(), cfg); err == nil {
			t.Error("Ensure with a multicast address succeeded")
		}
		if !exists(t, name) {
			t.Error("the bridge was deleted")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := b.Ensure(ctx, defaultConfig()); !errors.Is(err, context.Canceled) {
			t.Errorf("Ensure with an ended context: %v", err)
		}
	})
}

func TestNamesThatAreNotABridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		nstest.IP(t, "link add eno1 type veth peer name eno2")
		nstest.IP(t, "link property add dev eno1 altname uplink0")
		for _, tt := range []struct{ name, says string }{
			{"eno1", `"veth"`},
			{"uplink0", `another name of link "eno1"`},
		} {
			cfg := defaultConfig()
			cfg.Name = tt.name
			_, err := b.Ensure(t.Context(), cfg)
			if !errors.Is(err, bridge.ErrNotBridge) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Ensure of %s: %v, want ErrNotBridge with %s", tt.name, err, tt.says)
			}
			if err := b.Remove(tt.name, 0); !errors.Is(err, bridge.ErrNotBridge) {
				t.Errorf("Remove of %s: %v, want ErrNotBridge", tt.name, err)
			}
		}
		for _, bad := range []string{"", ".", "..", "a/b", "a b", "virbr%d", "sixteen-bytes-xx"} {
			cfg := defaultConfig()
			cfg.Name = bad
			if _, err := b.Ensure(t.Context(), cfg); err == nil {
				t.Errorf("Ensure of %q succeeded", bad)
			}
		}
	})
}

func TestRemove(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		attach(t, b, index, port, bridge.PortConfig{})
		if err := b.Remove(name, index+100); err != nil {
			t.Error(err)
		}
		if !exists(t, name) {
			t.Fatal("Remove with another index removed the bridge")
		}
		for range 2 {
			if err := b.Remove(name, index); err != nil {
				t.Error(err)
			}
		}
		if exists(t, name) {
			t.Error("the bridge is there after Remove")
		}
		l, err := b.LookupIndex(port)
		if err != nil || l.Master != 0 || l.Name != "vnet0" {
			t.Errorf("the port became %+v, %v", l, err)
		}
	})
}

func TestRemoveWhateverItsIndex(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		ensure(t, b, defaultConfig())
		if err := b.Remove(name, 0); err != nil || exists(t, name) {
			t.Errorf("Remove with index 0: %v", err)
		}
	})
}

func TestLookup(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		want := bridge.Link{Name: name, Index: index, Kind: "bridge", MAC: parseMAC(mac), MTU: 1500, Up: true}
		for how, find := range map[string]func() (bridge.Link, error){
			"by name":  func() (bridge.Link, error) { return b.Lookup(name) },
			"by index": func() (bridge.Link, error) { return b.LookupIndex(index) },
		} {
			got, err := find()
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: %v (-want +got):\n%s", how, err, diff)
			}
		}
		for _, missing := range []string{"", "nosuch0", "far-too-long-for-a-link"} {
			if _, err := b.Lookup(missing); !errors.Is(err, bridge.ErrNotFound) {
				t.Errorf("Lookup(%q): %v, want ErrNotFound", missing, err)
			}
		}
		for _, missing := range []int{-1, 0, index + 100} {
			if _, err := b.LookupIndex(missing); !errors.Is(err, bridge.ErrNotFound) {
				t.Errorf("LookupIndex(%d): %v, want ErrNotFound", missing, err)
			}
		}
	})
}

// TestParallel runs many networks' lives at once.
func TestParallel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		var wg sync.WaitGroup
		for i := range 50 {
			_, port := openTAP(t, fmt.Sprintf("vnet%d", i))
			wg.Go(func() {
				if err := live(t.Context(), b, i, port); err != nil {
					t.Errorf("network %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if left := nstest.IP(t, "link show type bridge"); left != "" {
			t.Errorf("left over:\n%s", left)
		}
	})
}

// live makes the bridge of network i, twice at once, plugs the port in and out,
// and removes the bridge.
func live(ctx context.Context, b *bridge.Bridges, i, port int) error {
	cfg := defaultConfig()
	cfg.Name, cfg.MAC[5], cfg.Addrs = fmt.Sprintf("virbr%d", i), byte(i), prefixes(fmt.Sprintf("10.0.%d.1/24", i))
	rival := make(chan error, 1)
	go func() {
		_, err := b.Ensure(ctx, cfg)
		rival <- err
	}()
	index, err := b.Ensure(ctx, cfg)
	if err = errors.Join(err, <-rival); err != nil {
		return err
	}
	if err := b.Attach(ctx, index, port, bridge.PortConfig{Isolated: i%2 == 0}); err != nil {
		return err
	}
	l, err := b.LookupIndex(port)
	if err != nil || l.Master != index || !l.Up {
		return fmt.Errorf("port is %+v: %w", l, err)
	}
	return errors.Join(b.Detach(port), b.Remove(cfg.Name, index))
}
