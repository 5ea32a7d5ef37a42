package vxlan_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
)

func addrs(all ...string) (out []netip.Addr) {
	for _, a := range all {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// card is a Card behind a peer.
func card(t *testing.T, mac, peer string) vxlan.Card {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	return vxlan.Card{MAC: [6]byte(hw), Peer: netip.MustParseAddr(peer)}
}

// config is a tunnel with two peers.
func config() vxlan.Config {
	return vxlan.Config{
		Name: "vx7", VNI: 7, Local: netip.MustParseAddr("203.0.113.1"), Port: 4789, Learning: true, Alias: "vnetd network u n",
		Peers: addrs("203.0.113.2", "203.0.113.3"),
	}
}

// ensure is Tunnels.Ensure, and returns what was amended.
func ensure(t *testing.T, tunnels *vxlan.Tunnels, cfg vxlan.Config) (index int, amended []string) {
	t.Helper()
	cfg.Amend = func(d bridge.Difference) bool {
		amended = append(amended, d.String())
		return true
	}
	index, _, err := tunnels.Ensure(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return index, amended
}

// flows are the device's own entries, sorted.
func flows(t *testing.T) []string {
	t.Helper()
	var all []string
	for line := range strings.Lines(nstest.Exec(t, "bridge", "fdb", "show", "dev", "vx7")) {
		if line = strings.TrimSpace(line); strings.Contains(line, "dst") || strings.Contains(line, "sticky") {
			all = append(all, line)
		}
	}
	slices.Sort(all)
	return all
}

// TestEnsure makes a device, finds it as it is, mends what others did, and follows changes
// without making it anew.
func TestEnsure(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		cfg := config()
		index, amended := ensure(t, tunnels, cfg)
		want := []string{"vx7: tunnel vxlan id 7 local 203.0.113.1 dstport 4789 learning is not there", "vx7: peer 203.0.113.2 is not there", "vx7: peer 203.0.113.3 is not there"}
		if diff := cmp.Diff(want, amended); diff != "" {
			t.Errorf("amended (-want +got):\n%s", diff)
		}
		for _, part := range []string{"vxlan id 7 local 203.0.113.1", "dstport 4789", "mtu 1500", "maxaddr 65536", "alias vnetd network u n"} {
			if out := nstest.IP(t, "-d link show vx7"); !strings.Contains(out, part) {
				t.Errorf("want %q:\n%s", part, out)
			}
		}
		if got := nstest.Exec(t, "cat", "/proc/sys/net/ipv6/conf/vx7/disable_ipv6"); got != "1\n" {
			t.Errorf("the device speaks IPv6: disable_ipv6 is %s", got)
		}
		flood := []string{"00:00:00:00:00:00 dst 203.0.113.2 self permanent", "00:00:00:00:00:00 dst 203.0.113.3 self permanent"}
		if diff := cmp.Diff(flood, flows(t)); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		same := func(what string, cfg vxlan.Config, want ...string) {
			t.Helper()
			again, amended := ensure(t, tunnels, cfg)
			if again != index || !cmp.Equal(want, amended) {
				t.Errorf("%s: ifindex %d, want %d, amended %q, want %q", what, again, index, amended, want)
			}
		}
		same("unchanged", cfg)
		nstest.Exec(t, "bridge", "fdb", "del", "00:00:00:00:00:00", "dev", "vx7", "dst", "203.0.113.2")
		nstest.Exec(t, "bridge", "fdb", "append", "00:00:00:00:00:00", "dev", "vx7", "dst", "203.0.113.66")
		same("others' doings", cfg, "vx7: peer 203.0.113.66 should not be there", "vx7: peer 203.0.113.2 is not there")
		cfg.Peers = addrs("203.0.113.3", "203.0.113.4")
		same("other peers", cfg, "vx7: peer 203.0.113.2 should not be there", "vx7: peer 203.0.113.4 is not there")
		same("other peers again", cfg)
		cfg.Local = netip.MustParseAddr("203.0.113.9")
		if moved, amended := ensure(t, tunnels, cfg); moved == index || len(amended) != 3 {
			t.Errorf("another address: ifindex %d was %d, amended %q", moved, index, amended)
		}
		if err := errors.Join(tunnels.Remove("vx7", "another"), tunnels.Remove("vx8", cfg.Alias+" 8")); err != nil {
			t.Error(err)
		}
		nstest.IP(t, "link show vx7")
		if err := errors.Join(tunnels.Remove("vx7", cfg.Alias), tunnels.Remove("vx7", cfg.Alias)); err != nil {
			t.Error(err)
		}
		if out := nstest.IP(t, "link show"); strings.Contains(out, "vx7") {
			t.Errorf("removed, but:\n%s", out)
		}
	})
}

// TestCards tells the device and its bridge of cards behind peers, one of which moves.
func TestCards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		cfg := config()
		cfg.Learning = false
		index, _ := ensure(t, tunnels, cfg)
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "link set vx7 master br0")
		const a, b = "52:54:00:00:00:0a", "52:54:00:00:00:0b"
		cfg.Cards = []vxlan.Card{card(t, a, "203.0.113.2"), card(t, b, "203.0.113.2")}
		ensure(t, tunnels, cfg)
		if _, amended := ensure(t, tunnels, cfg); amended != nil {
			t.Errorf("unchanged, but amended %q", amended)
		}
		cfg.Cards = []vxlan.Card{card(t, a, "203.0.113.3")}
		if again, amended := ensure(t, tunnels, cfg); again != index || len(amended) != 3 {
			t.Errorf("moved: ifindex %d, was %d, amended %q", again, index, amended)
		}
		want := []string{
			"00:00:00:00:00:00 dst 203.0.113.2 self permanent", "00:00:00:00:00:00 dst 203.0.113.3 self permanent",
			a + " dst 203.0.113.3 self", a + " sticky master br0 static",
		}
		got := flows(t)
		for i := range got {
			got[i] = strings.TrimSuffix(got[i], " static")
		}
		want[3] = strings.TrimSuffix(want[3], " static")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		for range 2 {
			if err := tunnels.RouteMulticast(index); err != nil {
				t.Error(err)
			}
		}
		if out := nstest.IP(t, "-d link show vx7"); strings.Contains(out, "mcast_router") && !strings.Contains(out, "mcast_router 2") {
			t.Errorf("what is for groups may not cross:\n%s", out)
		}
	})
}

// TestInTheWay names what keeps a tunnel from being made, and takes back one that was renamed.
func TestInTheWay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		refused := func(want string) {
			t.Helper()
			if _, _, err := tunnels.Ensure(t.Context(), config()); !errors.Is(err, vxlan.ErrTaken) || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		}
		nstest.IP(t, "link add vx7 type bridge")
		refused(`link "vx7" of kind "bridge"`)
		nstest.IP(t, "link del vx7")
		nstest.IP(t, "link add other type vxlan id 7 dstport 4789")
		refused("VNI 7 at port 4789 is that of another device")
		nstest.IP(t, "link del other")
		ensure(t, tunnels, config())
		nstest.IP(t, "link set vx7 name lost")
		ensure(t, tunnels, config())
		if out := nstest.IP(t, "link show"); strings.Contains(out, "lost") || !strings.Contains(out, "vx7") {
			t.Errorf("renamed, and made anew:\n%s", out)
		}
		// Another program has the port: that shows when the device is set up.
		pc, err := net.ListenPacket("udp4", ":4789")
		if err != nil {
			t.Fatal(err)
		}
		defer pc.Close()
		links, err := bridge.New()
		if err != nil {
			t.Fatal(err)
		}
		defer links.Close()
		index, _ := ensure(t, tunnels, config())
		br, err := links.Ensure(t.Context(), bridge.Config{Name: "br0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
		if err != nil {
			t.Fatal(err)
		}
		if err := links.Attach(t.Context(), br, index, bridge.PortConfig{MTU: 1500}); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("with the port taken: %v", err)
		}
	})
}

// TestUnderlayAtOnce has many ask at a time for an address that has just come: each finds it,
// though they share lists of the kernel's.
func TestUnderlayAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		stop := make(chan struct{})
		var others, group sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						_, _ = tunnels.Underlay(nil, nil) // it lists, and finds none
					}
				}
			})
		}
		var all []netip.Addr
		for n := range 100 {
			a := fmt.Sprintf("198.51.100.%d", n+1)
			all = append(all, netip.MustParseAddr(a))
			nstest.IP(t, "addr add "+a+"/32 dev lo")
			for range 4 {
				group.Go(func() {
					if u, err := tunnels.Underlay(addrs(a), all); err != nil || u.Link != "lo" || len(u.Own) != len(all) {
						t.Errorf("%s is on %q, among %v: %v", a, u.Link, u.Own, err)
					}
				})
			}
			group.Wait()
		}
		close(stop)
		others.Wait()
	})
}

// TestUnderlay finds which of a network's hosts this one is.
func TestUnderlay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		nstest.NewLAN(t)
		nstest.IP(t, "link set eno1 mtu 1400")
		for _, a := range []string{nstest.Uplink, nstest.Uplink6} {
			u, err := tunnels.Underlay(addrs("198.51.100.1", a), addrs("198.51.100.1", nstest.Uplink, nstest.Uplink6))
			if u.Addr != netip.MustParseAddr(a) || u.Link != "eno1" || u.MTU != 1400 || err != nil {
				t.Errorf("got %v, %v, want %s of eno1", u, err, a)
			}
			if want := addrs(nstest.Uplink, nstest.Uplink6); !slices.Equal(u.Own, want) {
				t.Errorf("this host's own are %v, want %v", u.Own, want)
			}
		}
		nstest.IP(t, "addr add 198.51.100.66/26 brd 198.51.100.99 dev eno1")
		nstest.IP(t, "addr add 198.51.100.130 peer 198.51.100.131/31 dev eno1")
		want := addrs("127.255.255.255", "198.51.100.99", "198.51.100.127", "203.0.113.255")
		u, err := tunnels.Underlay(addrs(nstest.Uplink), append(addrs("198.51.100.130", "198.51.100.131", "198.51.100.255"), want...))
		if err != nil || !slices.Equal(u.Broadcasts, want) {
			t.Errorf("addresses for all are %v, %v, want %v", u.Broadcasts, err, want)
		}
		if _, err := tunnels.Underlay(addrs("198.51.100.1"), nil); !errors.Is(err, vxlan.ErrNoUnderlay) {
			t.Errorf("an address that this host has not: %v", err)
		}
	})
}

// TestUnderlayFollows: what is told of addresses is as new as the host, however they changed.
func TestUnderlayFollows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		nstest.IP(t, "link add eno1 type bridge")
		nstest.IP(t, "link add eno2 type bridge")
		nstest.IP(t, "link set eno1 up")
		for _, step := range []struct{ do, addr, link, broadcast string }{
			{"addr add 198.51.100.1/24 dev eno1", "198.51.100.1", "eno1", "198.51.100.255"},
			{"addr del 198.51.100.1/24 dev eno1", "198.51.100.1", "", ""},
			{"addr add 198.51.100.1/24 brd 198.51.100.99 dev eno1", "198.51.100.1", "eno1", "198.51.100.99"},
			{"addr del 198.51.100.1/24 dev eno1", "198.51.100.1", "", ""},
			{"addr add 198.51.100.1/26 dev eno2", "198.51.100.1", "eno2", "198.51.100.63"},
			{"link del eno2", "198.51.100.1", "", ""},
			{"addr add 2001:db8::1/64 dev eno1 nodad", "2001:db8::1", "eno1", ""},
			{"link set eno1 down", "2001:db8::1", "", ""},
		} {
			nstest.IP(t, step.do)
			if step.link != "" && addrs(step.addr)[0].Is6() { // of which the kernel tells after ip has ended
				nstest.Eventually(t, time.Minute, step.do, func() error {
					_, err := tunnels.Underlay(addrs(step.addr), nil)
					return err
				})
			}
			for range 2 { // the second time nothing has changed
				question := addrs(step.addr)
				if step.broadcast != "" {
					question = append(question, netip.MustParseAddr(step.broadcast))
				}
				u, err := tunnels.Underlay(addrs(step.addr), question)
				if u.Link != step.link || (step.link == "") != errors.Is(err, vxlan.ErrNoUnderlay) {
					t.Errorf("after ip %s: %s is on %q, %v; want %q", step.do, step.addr, u.Link, err, step.link)
				}
				if step.broadcast != "" && !slices.Contains(u.Broadcasts, netip.MustParseAddr(step.broadcast)) {
					t.Errorf("after ip %s: addresses for all are %v, want %s among them", step.do, u.Broadcasts, step.broadcast)
				}
				if step.link == "" && slices.Contains(u.Own, netip.MustParseAddr(step.addr)) {
					t.Errorf("after ip %s: %s is the host's own still", step.do, step.addr)
				}
			}
		}
	})
}

// TestLoose has a card whose guest is about to move here stay behind the tunnel until its first frame
// comes by its port, from which on the bridge knows it there.
func TestLoose(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		tunnels := new(vxlan.Tunnels)
		defer tunnels.Close()
		nstest.IP(t, "link add br0 type bridge mcast_snooping 0")
		nstest.IP(t, "link set br0 up")
		guest := nstest.NewNS(t, "guest")
		nstest.IP(t, "link add port type veth peer name eth0 netns guest")
		nstest.IP(t, "link set port master br0 up")
		const mac = "52:54:00:00:00:0a"
		guest.IP("link set eth0 address " + mac + " addrgenmode none")
		cfg := config()
		cfg.Learning = false
		index, _ := ensure(t, tunnels, cfg)
		nstest.IP(t, "link set vx7 master br0 up")
		behind := func(what, want string) {
			t.Helper()
			for range 2 { // and it stays so
				if _, _, err := tunnels.Ensure(t.Context(), cfg); err != nil {
					t.Fatal(err)
				}
				got := ""
				for line := range strings.Lines(nstest.Exec(t, "bridge", "fdb", "show", "br", "br0")) {
					if strings.HasPrefix(line, mac) && strings.Contains(line, "master br0") {
						got += strings.Join(strings.Fields(strings.TrimPrefix(line, mac+" dev ")), " ")
					}
				}
				if got != want {
					t.Errorf("%s: the bridge has %q, want %q", what, got, want)
				}
			}
		}
		one := card(t, mac, "203.0.113.2")
		cfg.Cards = []vxlan.Card{one}
		behind("a guest elsewhere", "vx7 sticky master br0 static")
		cfg.Cards[0].Hold = vxlan.Unsaid
		behind("one of whom the bridge is not told", "")
		cfg.Cards[0].Hold = vxlan.Loose
		behind("one that is about to come", "vx7 master br0 static")
		cfg.Cards[0].Hold = vxlan.Fast
		behind("one that does not come after all", "vx7 sticky master br0 static")
		cfg.Cards[0].Hold = vxlan.Loose
		behind("one that is about to come again", "vx7 master br0 static")
		guest.IP("link set eth0 up")
		guest.IP("addr add 10.0.0.1/24 dev eth0")
		nstest.Eventually(t, time.Minute, "the guest's first frame passes", func() error { // once the link has carrier
			_ = guest.Command(t.Context(), "ping", "-c1", "-W1", "10.0.0.2").Run()
			if out := nstest.Exec(t, "bridge", "fdb", "show", "br", "br0"); !strings.Contains(out, mac+" dev port master br0") {
				return errors.New(out)
			}
			return nil
		})
		behind("one that has come", "port master br0 static")
		if _, amended := ensure(t, tunnels, cfg); amended != nil {
			t.Errorf("it has come, but amended %q", amended)
		}
		cfg.Cards[0].Hold = vxlan.Fast
		behind("one that has gone", "vx7 sticky master br0 static")
		if again, _ := ensure(t, tunnels, cfg); again != index {
			t.Errorf("the device is another one: ifindex %d, was %d", again, index)
		}
	})
}
