package uplink_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/uplink"
)

func TestUplinkMovesAndComesBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		lan := hypervisor(t)
		before := hostState(t)
		uplink, routes := show(t, "eno1"), routesOf(t, "eno1")
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")

		br := show(t, "br0")
		if br.Address != uplink.Address || br.MTU != uplink.MTU || br.Info.Data.STPState != 0 || show(t, "eno1").Master != "br0" {
			t.Errorf("bridge %+v of uplink %+v", br, show(t, "eno1"))
		}
		checkMoved(t, routes)
		if ok, err := u.Attached(s); !ok || err != nil {
			t.Errorf("Attached: %v, %v", ok, err)
		}
		lan.Exec("ping", "-c1", "-W20", nstest.Uplink)
		lan.Exec("ping", "-c1", "-W20", nstest.Uplink6)
		nstest.Exec(t, "ping", "-c1", "-W20", nstest.LANHost6)

		detachUplink(t, u, s)
		sameHost(t, "after Detach", before)
		if ok, err := u.Attached(s); ok || err != nil {
			t.Errorf("Attached: %v, %v", ok, err)
		}
		detachUplink(t, u, s)
		sameHost(t, "after another Detach", before)
	})
}

// checkMoved sees whether br0 has what eno1 had.
func checkMoved(t *testing.T, routes []string) {
	t.Helper()
	if diff := cmp.Diff(routes, routesOf(t, "br0")); diff != "" {
		t.Errorf("routes (-uplink +bridge):\n%s", diff)
	}
	if left := routesOf(t, "eno1"); len(left) != 0 {
		t.Errorf("routes of the uplink: %q", left)
	}
	if out := nstest.IP(t, "-br addr show dev eno1 scope global"); out != "" {
		t.Errorf("addresses of the uplink: %s", out)
	}
	for _, want := range []string{
		"203.0.113.4/24 brd 203.0.113.127 scope global secondary dynamic br0:web",
		"192.0.2.130 peer 192.0.2.131/32 scope global br0",
		"inet6 2001:db8:1::2/64 scope global nodad deprecated dynamic",
		"inet6 2001:db8:ffff::3/128 scope global \n",
		"inet6 fe80:",
	} {
		if out := nstest.IP(t, "addr show dev br0"); !strings.Contains(out, want) {
			t.Errorf("br0 lacks %s: %s", want, out)
		}
	}
}

func TestUplinkKeepsConnections(t *testing.T) {
	for _, address := range []string{nstest.LANHost, nstest.LANHost6} {
		t.Run(address, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				setSysctl(t, "ipv4/conf/all/rp_filter", "1")
				lan := hypervisor(t)
				u := newUplinks(t)
				s := openStream(t, lan, address)
				s.flows(t)
				for range 3 {
					state := attachUplink(t, u, "eno1")
					stall := s.flows(t)
					detachUplink(t, u, state)
					t.Logf("max stall: %v at attach, %v at detach", stall, s.flows(t))
				}
				s.close(t)
			})
		})
	}
}

func TestUplinkCarriesGuests(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hypervisor(t)
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		guest := nstest.Guest(t, "br0", "guest", "")
		if err := newBridges(t).Attach(t.Context(), show(t, "br0").Index, show(t, "v-guest").Index, bridge.PortConfig{}); err != nil {
			t.Fatal(err)
		}
		guest.IP("addr add 203.0.113.50/24 dev eth0")
		guest.Exec("ping", "-c1", "-W20", nstest.LANHost)
		guest.Exec("ping", "-c1", "-W20", nstest.Uplink)
		detachUplink(t, u, s)
		if got := show(t, "v-guest"); got.Master != "" {
			t.Errorf("the guest's port has master %q", got.Master)
		}
	})
}

// breakers make the LAN unreachable as soon as eno1 is a port.
var breakers = []struct {
	name  string
	limit time.Duration // 0 for the usual one
	apply func(t *testing.T, lan *nstest.NS)
}{
	{"the LAN's end goes down", 3 * time.Second, func(t *testing.T, lan *nstest.NS) { lan.IP("link set lan0 down") }},
	{"the LAN drops everything", 3 * time.Second, func(t *testing.T, lan *nstest.NS) {
		lan.IP("link add sink type bridge")
		lan.IP("link set lan0 master sink")
	}},
	{"the gateway forgot us", 0, func(t *testing.T, lan *nstest.NS) {
		lan.IP("addr del " + nstest.LANHost + "/24 dev lan0")
	}},
}

func TestBrokenUplinkRollsBack(t *testing.T) {
	t.Parallel()
	for _, br := range breakers {
		t.Run(br.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				lan := hypervisor(t)
				before := hostState(t)
				u := newUplinks(t)
				start := time.Now()
				_, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: "eno1", CheckTimeout: br.limit, Save: func(uplink.State) error {
					start = time.Now()
					br.apply(t, lan)
					return nil
				}})
				took := time.Since(start)
				if !errors.Is(err, uplink.ErrNoAnswer) {
					t.Errorf("Attach: %v", err)
				}
				t.Logf("rolled back after %v: %v", took, err)
				if br.name == "the LAN's end goes down" {
					lan.IP("link set lan0 up")
					lan.IP("-6 addr replace " + nstest.LANHost6 + "/64 dev lan0 nodad")
					nstest.Eventually(t, soon, "eno1 has carrier", func() error {
						if out := nstest.IP(t, "link show eno1"); !strings.Contains(out, "LOWER_UP") || !strings.Contains(out, "state UP") {
							return errors.New(out)
						}
						return nil
					})
				}
				sameHost(t, "after the roll-back", before)
			})
		})
	}
}

// TestSilentGatewayIsNotAwaited: a gateway that never answered is none that the
// bridge broke.
func TestSilentGatewayIsNotAwaited(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		nstest.IP(t, "route replace default via 203.0.113.99")
		settle(t)
		before := hostState(t)
		u := newUplinks(t)
		detachUplink(t, u, attachUplink(t, u, "eno1"))
		sameHost(t, "after Detach", before)
	})
}

// untilStep calls f on a goroutine that ends, like a process that dies, after n
// changes. It reports whether f came to its end before.
func untilStep(u *uplink.Uplinks, n int, f func()) (finished bool) {
	u.AfterStep(func() error {
		if n--; n == 0 {
			runtime.Goexit()
		}
		return nil
	})
	defer u.AfterStep(nil)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
		finished = true
	}()
	<-done
	return finished
}

// atEveryStep calls try with a host with an uplink for one change after the
// other at which something is to happen, until try tells that there was none with
// that number. Hosts of their own share the numbers.
func atEveryStep(t *testing.T, try func(t *testing.T, u *uplink.Uplinks, n int) (finished bool)) {
	t.Parallel()
	const hosts = 4
	for host := range hosts {
		t.Run(fmt.Sprintf("host %d", host), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				hypervisor(t)
				before := hostState(t)
				u := newUplinks(t)
				for n := 1 + host; ; n += hosts {
					finished := try(t, u, n)
					sameHost(t, fmt.Sprintf("after step %d", n), before)
					if finished || t.Failed() {
						t.Logf("fewer than %d steps", n)
						return
					}
				}
			})
		})
	}
}

func TestUplinkCrashWhileAttaching(t *testing.T) {
	atEveryStep(t, func(t *testing.T, u *uplink.Uplinks, n int) (finished bool) {
		var s saved
		finished = untilStep(u, n, func() {
			if _, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: "eno1", Save: s.save}); err != nil {
				t.Error(err)
			}
		})
		detachUplink(t, u, s.state(t))
		return finished
	})
}

func TestUplinkCrashWhileDetaching(t *testing.T) {
	atEveryStep(t, func(t *testing.T, u *uplink.Uplinks, n int) (finished bool) {
		s := attachUplink(t, u, "eno1")
		finished = untilStep(u, n, func() {
			if err := u.Detach(t.Context(), s); err != nil {
				t.Error(err)
			}
		})
		detachUplink(t, u, s)
		return finished
	})
}

// TestUplinkFailureAtEveryStep: Attach itself undoes what it did.
func TestUplinkFailureAtEveryStep(t *testing.T) {
	broken := errors.New("broken")
	atEveryStep(t, func(t *testing.T, u *uplink.Uplinks, n int) (finished bool) {
		u.AfterStep(func() error {
			if n--; n == 0 {
				return broken
			}
			return nil
		})
		s, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: "eno1"})
		u.AfterStep(nil)
		if err == nil {
			detachUplink(t, u, *s)
		} else if !errors.Is(err, broken) {
			t.Error(err)
		}
		return err == nil
	})
}

func TestUplinkRefusals(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		u := newUplinks(t)
		if _, err := newBridges(t).Ensure(t.Context(), bridge.Config{Name: "virbr0", MAC: net.HardwareAddr{0x52, 0x54, 0, 0x5e, 0, 1}}); err != nil {
			t.Fatal(err)
		}
		for _, args := range []string{
			"link add port type veth peer name peer",
			"link set port master virbr0",
			"link set peer up",
			"link add macv link peer type macvlan mode bridge",
			"link add tun0 type veth peer name tun1",
			"link set tun0 up",
			"link set tun1 up",
			"nexthop add id 7 dev tun0",
			"route add 198.51.100.0/24 nhid 7",
		} {
			nstest.IP(t, args)
		}
		settle(t)
		before := hostState(t)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for _, tt := range []struct {
			what, bridge, uplink, want string
			ctx                        context.Context
		}{
			{"no uplink", "br0", "eth7", "no such link", t.Context()},
			{"a port", "br0", "port", "port of link", t.Context()},
			{"a bridge", "br0", "virbr0", "bridge itself", t.Context()},
			{"loopback", "br0", "lo", "not an Ethernet device", t.Context()},
			{"the bridge is there", "virbr0", "eno1", "link exists", t.Context()},
			{"no name", "a b", "eno1", "invalid name", t.Context()},
			{"under a macvlan", "br0", "peer", "making the uplink a port", t.Context()},
			{"nexthop object", "br0", "tun0", "nexthop object 7", t.Context()},
			{"ended", "br0", "eno1", "canceled", ended},
		} {
			_, err := u.Attach(tt.ctx, uplink.Config{Bridge: tt.bridge, Uplink: tt.uplink})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v, want %q", tt.what, err, tt.want)
			}
			sameHost(t, tt.what, before)
		}
		full := errors.New("disk full")
		_, err := u.Attach(t.Context(), uplink.Config{Bridge: "br0", Uplink: "eno1", Save: func(uplink.State) error { return full }})
		if !errors.Is(err, full) {
			t.Errorf("unsaved state: %v", err)
		}
		sameHost(t, "unsaved state", before)
	})
}

// TestDownUplink: a device that nobody set up yet becomes a port all the same.
func TestDownUplink(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add eno1 type veth peer name lan0")
		nstest.IP(t, "link set eno1 up")
		nstest.IP(t, "link set eno1 down")
		nstest.IP(t, "addr add 203.0.113.2/24 dev eno1")
		before := hostState(t)
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		if got := show(t, "eno1"); !slices.Contains(got.Flags, "UP") || got.Master != "br0" {
			t.Errorf("uplink %+v", got)
		}
		detachUplink(t, u, s)
		sameHost(t, "after Detach", before)
	})
}

func TestDetachUplinkOfWhatChanged(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		hypervisor(t)
		before := hostState(t)
		u := newUplinks(t)
		for _, change := range []string{
			"link del br0",
			"link set eno1 nomaster",
			"link set br0 down",
			"addr flush dev br0",
			"addr add 203.0.113.2/24 dev eno1", // a DHCP client's renewal
			"route flush dev br0",
		} {
			s := attachUplink(t, u, "eno1")
			nstest.IP(t, change)
			detachUplink(t, u, s)
			sameHost(t, change, before)
		}
		s := attachUplink(t, u, "eno1")
		nstest.IP(t, "link del eno1")
		if err := u.Detach(t.Context(), s); !errors.Is(err, uplink.ErrAway) {
			t.Errorf("Detach of an uplink that is away: %v", err)
		}
		if out := nstest.IP(t, "-br addr show dev br0"); !strings.Contains(out, nstest.Uplink+"/24") {
			t.Errorf("the bridge of an uplink that is away has lost the host's addresses: %s", out)
		}
	})
}

// TestUplinkKeepsRenewedLifetimes: a client that renews a lease does so on br0.
func TestUplinkKeepsRenewedLifetimes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		nstest.IP(t, "addr add 203.0.113.9/24 dev eno1 valid_lft 100000 preferred_lft 90000")
		u := newUplinks(t)
		s := attachUplink(t, u, "eno1")
		if got := fmt.Sprint(s.Temporary()); got != "[203.0.113.9/24]" {
			t.Errorf("temporary addresses %s", got)
		}
		nstest.IP(t, "addr change 203.0.113.9/24 dev br0 valid_lft 700000 preferred_lft 600000")
		detachUplink(t, u, s)
		if out := nstest.IP(t, "addr show dev eno1"); !strings.Contains(out, "valid_lft 69") && !strings.Contains(out, "valid_lft 700000") {
			t.Errorf("the address has its old lifetime: %s", out)
		}
	})
}

// TestUplinkAmongEquals: where another device has equal routes, the kernel goes on
// preferring the one it preferred.
func TestUplinkAmongEquals(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, first := range []string{"eno1", "eno2"} {
			second := map[string]string{"eno1": "eno2", "eno2": "eno1"}[first]
			for _, args := range []string{
				"link add eno1 type veth peer name lan1",
				"link add eno2 type veth peer name lan2",
				"link set lan1 up", "link set lan2 up", "link set eno1 up", "link set eno2 up",
				"addr add 203.0.113.2/24 dev " + first,
				"addr add 203.0.113.3/24 dev " + second,
				"route append 198.18.0.0/24 via 203.0.113.1 dev " + first,
				"route append 198.18.0.0/24 via 203.0.113.1 dev " + second,
			} {
				nstest.IP(t, args)
			}
			settle(t)
			before := nstest.IP(t, "route show")
			want := map[string]string{"eno1": "dev br0", "eno2": "dev eno2"}[first]
			u := newUplinks(t)
			s := attachUplink(t, u, "eno1")
			for _, to := range []string{"203.0.113.99", "198.18.0.1"} {
				if out := nstest.IP(t, "route get "+to); !strings.Contains(out, want) {
					t.Errorf("%s first: the way to %s is %q", first, to, out)
				}
			}
			detachUplink(t, u, s)
			if after := nstest.IP(t, "route show"); after != before {
				t.Errorf("%s first: routes %s, were %s", first, after, before)
			}
			nstest.IP(t, "link del eno1")
			nstest.IP(t, "link del eno2")
		}
	})
}

// TestUplinkWithManyRoutes has more of everything than goes into one datagram.
func TestUplinkWithManyRoutes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.NewLAN(t)
		var lines strings.Builder
		for i := range 5000 {
			fmt.Fprintf(&lines, "route add 198.18.%d.%d/32 via 203.0.113.1\n", i/250, i%250)
		}
		for i := range 500 {
			fmt.Fprintf(&lines, "addr add 198.19.%d.%d/32 dev eno1\n", i/250, i%250)
		}
		batch := filepath.Join(t.TempDir(), "batch")
		if err := os.WriteFile(batch, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		nstest.IP(t, "-batch "+batch)
		settle(t)
		before := hostState(t)
		u := newUplinks(t)
		start := time.Now()
		s := attachUplink(t, u, "eno1")
		t.Logf("5500 routes and addresses moved in %v", time.Since(start))
		if n := strings.Count(nstest.IP(t, "route show dev br0"), "198.18."); n != 5000 {
			t.Errorf("%d routes on br0", n)
		}
		detachUplink(t, u, s)
		sameHost(t, "after Detach", before)
		s = attachUplink(t, u, "eno1")
		nstest.IP(t, "route flush dev br0")
		nstest.IP(t, "addr flush dev br0")
		detachUplink(t, u, s)
		sameHost(t, "after a flush and Detach", before)
	})
}
