package offload_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
	"github.com/vnetd/vnetd/pkg/firewall/offload"
)

// kernel is what Debian's kernel needs for networks, and for flowtables.
var kernel = nstest.GuestFiles{
	Programs: []string{"nft"},
	Modules: []string{
		"llc", "stp", "bridge", "veth", "nfnetlink", "libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nf_tables",
		"nft_ct", "nft_chain_nat", "nft_masq", "nft_nat", "nf_reject_ipv4", "nf_reject_ipv6", "nft_reject", "nft_reject_ipv4", "nft_reject_ipv6", "nft_reject_inet", "nft_redir",
		"nft_fib", "nft_fib_ipv4", "nft_fib_ipv6", "nft_limit", "nf_conntrack_netlink", "nf_dup_netdev", "nft_fwd_netdev", "ifb",
		"nf_flow_table", "nf_flow_table_inet", "nft_flow_offload",
	},
}

// mendLimit is how long a test waits for what it asks of an emulated machine.
const mendLimit = time.Minute

const (
	guestAddr, guestAddr6     = "192.0.2.2", "2001:db8:1::2"
	gatewayAddr, gatewayAddr6 = "192.0.2.1", "2001:db8:1::1"
)

// lab is a host with a network and a guest, and a LAN.
type lab struct {
	*testing.T
	guest, lan *nstest.NS
	firewall   *firewall.Firewall
	table      *offload.Table
	network    firewall.Network
}

// newLab makes one whose network is translated and offloaded.
func newLab(t *testing.T, cfg offload.Config) *lab {
	t.Helper()
	l := &lab{T: t, table: offload.New(cfg)}
	l.lan = nstest.NewLAN(t)
	nstest.IP(t, "link add virbr0 type bridge")
	nstest.IP(t, "link set virbr0 up")
	l.guest = nstest.Guest(t, "virbr0", "guest", "")
	nstest.IP(t, "addr add "+gatewayAddr+"/24 dev virbr0")
	nstest.IP(t, "addr add "+gatewayAddr6+"/64 dev virbr0 nodad")
	l.guest.IP("addr add " + guestAddr + "/24 dev eth0")
	l.guest.IP("addr add " + guestAddr6 + "/64 dev eth0 nodad")
	l.guest.IP("route add default via " + gatewayAddr)
	l.guest.IP("route add default via " + gatewayAddr6)
	for _, key := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/"+key, []byte("1"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l.firewall = firewall.New(nft.New(nft.Config{}), firewall.Config{Flows: flows.Table{}, Offload: l.table})
	t.Cleanup(func() { _ = l.firewall.Close() })
	l.network = firewall.Network{
		Bridge: "virbr0", Name: "default", Mode: firewall.ModeNAT, NATIPv6: true, Offload: firewall.OffloadOn,
		Subnets: []netip.Prefix{netip.MustParsePrefix(gatewayAddr + "/24"), netip.MustParsePrefix(gatewayAddr6 + "/64")},
	}
	return l
}

// set sets the network.
func (l *lab) set() {
	l.Helper()
	if err := l.firewall.Set(l.Context(), l.network); err != nil {
		l.Fatal(err)
	}
}

// serve answers what comes to an address in a namespace with itself.
func (l *lab) serve(ns *nstest.NS, address string) (at string) {
	l.Helper()
	var server net.Listener
	if err := ns.Do(func() (err error) { server, err = net.Listen("tcp", net.JoinHostPort(address, "0")); return err }); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = server.Close() })
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	return server.Addr().String()
}

// dial opens a connection from a namespace.
func (l *lab) dial(ns *nstest.NS, to string) net.Conn {
	l.Helper()
	var conn net.Conn
	err := ns.Do(func() (err error) { conn, err = net.DialTimeout("tcp", to, mendLimit); return err })
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask asks so many questions over a connection, and waits for each answer.
func ask(conn net.Conn, times int, patience time.Duration) error {
	b := []byte("?")
	for range times {
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := conn.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
	}
	return nil
}

// offloaded waits until so many connections are.
func (l *lab) offloaded(want int) {
	l.Helper()
	nstest.Eventually(l, mendLimit, fmt.Sprintf("%d offloaded connections", want), func() error {
		if n, err := l.firewall.Offloaded(); n != want || err != nil {
			return fmt.Errorf("%d are, %w", n, errors.Join(err, l.table.Err()))
		}
		return nil
	})
}

// talk has a connection be answered, and offloaded.
func (l *lab) talk(conn net.Conn) {
	l.Helper()
	if err := ask(conn, 5, mendLimit); err != nil {
		l.Fatalf("before it is offloaded: %v", err)
	}
}

// settled has a connection talk until it is offloaded and stays so: rules that changed a
// moment ago have it asked about anew once that is heard of.
func (l *lab) settled(conn net.Conn) {
	l.Helper()
	const quiet = time.Second // several times what passes until a change has been looked at
	since := time.Now()
	nstest.Eventually(l, mendLimit, "the connection to stay offloaded", func() error {
		n, err := l.firewall.Offloaded()
		if n == 0 || err != nil {
			since = time.Now()
			l.talk(conn)
			return fmt.Errorf("%d are, %w", n, errors.Join(err, l.table.Err()))
		}
		if lasted := time.Since(since); lasted < quiet {
			return fmt.Errorf("it has been for %v", lasted)
		}
		return nil
	})
}

// probe counts what comes to a hook.
func (l *lab) probe(hook string) (count func() string) {
	l.Helper()
	family := "inet"
	if strings.Contains(hook, "device") {
		family = "netdev"
	}
	nstest.Exec(l, "nft", "add table "+family+" probe; add chain "+family+" probe c { type filter hook "+hook+"; }; add rule "+family+" probe c counter")
	return func() string {
		_, text, _ := strings.Cut(nstest.Exec(l, "nft", "list chain "+family+" probe c"), "packets ")
		text, _, _ = strings.Cut(text, " ")
		return text
	}
}

// devices are those of the flowtable, sorted.
func devices(t *testing.T) []string {
	t.Helper()
	s, err := nfnetlink.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	all, err := s.Flowtables(nfnetlink.Place{Family: unix.NFPROTO_INET, Table: firewall.OffloadTable})
	if err != nil || len(all) == 0 {
		return nil
	}
	slices.Sort(all[0].Devices)
	return all[0].Devices
}

// wantDevices waits until the flowtable has these.
func wantDevices(t *testing.T, want ...string) {
	t.Helper()
	nstest.Eventually(t, mendLimit, fmt.Sprintf("a flowtable of %q", want), func() error {
		if got := devices(t); !slices.Equal(got, want) {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
}

// TestConnections holds that established connections go past the rules, and by whom they
// are still seen; that they end with what let them in, at once; and that one is asked
// about anew when rules change.
func TestConnections(t *testing.T) {
	nstest.RunInGuest(t, kernel, func(t *testing.T) {
		l := newLab(t, offload.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { _ = l.table.Watch(ctx) })
		defer watching.Wait()
		defer cancel()
		l.set()
		wantDevices(t, "eno1", "virbr0")
		for _, at := range []string{nstest.LANHost, nstest.LANHost6} {
			conn := l.dial(l.guest, l.serve(l.lan, at))
			l.settled(conn)
			hook, port := l.probe("forward priority 0"), l.probe("ingress device v-guest priority -100")
			// Each change of rules has it asked about anew, on a busy machine later than it settles.
			nstest.Eventually(t, mendLimit, "a connection to "+at+" goes past the rules", func() error {
				l.settled(conn)
				before, seen := hook(), port()
				if err := ask(conn, 100, mendLimit); err != nil {
					t.Fatal(err)
				}
				if after := port(); after == seen {
					t.Errorf("to %s: at the guest's port %s packets were seen, and no more", at, seen)
				}
				if after := hook(); after != before {
					return fmt.Errorf("rules saw %s packets, and %s later", before, after)
				}
				return nil
			})
			nstest.Exec(t, "nft", "delete table inet probe; delete table netdev probe")
			_ = conn.Close()
			l.offloaded(0)
		}
		t.Run("forward", l.endsWithForward)
		t.Run("mode", l.endsWithMode)
		t.Run("off", l.turnedOff)
		t.Run("held", l.held)
	})
}

// endsWithForward: a connection from the LAN.
func (l *lab) endsWithForward(t *testing.T) {
	server := netip.MustParseAddrPort(l.serve(l.guest, guestAddr))
	with := l.network
	with.Forwards = []firewall.Forward{{Protocol: "tcp", Ports: firewall.PortRange{Start: 80, End: 80}, To: server.Addr(), ToPort: server.Port()}}
	if err := l.firewall.Set(t.Context(), with); err != nil {
		t.Fatal(err)
	}
	conn := l.dial(l.lan, nstest.Uplink+":80")
	l.settled(conn)
	l.set()
	if err := ask(conn, 1, 500*time.Millisecond); err == nil {
		t.Error("the connection goes on without the forward that led it")
	}
	if led, err := l.firewall.Connections([][]firewall.Forward{with.Forwards}); err != nil || led[0].Connections != 0 {
		t.Errorf("%v is known of the forward, %v", led, err)
	}
	l.offloaded(0)
}

// endsWithMode: rules change, to nobody's harm, then so that nothing passes, then a network
// is isolated.
func (l *lab) endsWithMode(t *testing.T) {
	conn := l.dial(l.guest, l.serve(l.lan, nstest.LANHost))
	l.settled(conn)
	nstest.Exec(t, "nft", "add table inet mine; add chain inet mine forward { type filter hook forward priority 7; }; add rule inet mine forward tcp dport 1 drop")
	l.settled(conn)
	nstest.Exec(t, "nft", "add rule inet mine forward ip saddr "+guestAddr+" drop")
	nstest.Eventually(t, mendLimit, "another program's rule to be heeded", func() error {
		if ask(conn, 1, 500*time.Millisecond) == nil {
			return errors.New("the connection goes on")
		}
		return nil
	})
	nstest.Exec(t, "nft", "delete table inet mine")
	conn = l.dial(l.guest, l.serve(l.lan, nstest.LANHost))
	l.settled(conn)
	elsewhere := l.network
	elsewhere.Dev = "eno9"
	if err := l.firewall.Set(t.Context(), elsewhere); err != nil {
		t.Fatal(err)
	}
	if err := ask(conn, 1, 500*time.Millisecond); err == nil {
		t.Error("the connection goes on though the network leads elsewhere by now")
	}
	wantDevices(t, "eno1", "virbr0")
	isolated := l.network
	isolated.Mode = firewall.ModeIsolated
	if err := l.firewall.Set(t.Context(), isolated); err != nil {
		t.Fatal(err)
	}
	if got := devices(t); got != nil {
		t.Errorf("without a network to offload the flowtable has %q", got)
	}
	l.set()
}

// turnedOff: a network that is not to be offloaded.
func (l *lab) turnedOff(t *testing.T) {
	off := l.network
	off.Offload = firewall.OffloadUnset
	if err := l.firewall.Set(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	l.talk(l.dial(l.guest, l.serve(l.lan, nstest.LANHost)))
	time.Sleep(100 * time.Millisecond)
	if n, err := l.firewall.Offloaded(); n != 0 || err != nil || devices(t) != nil {
		t.Errorf("%d connections are offloaded, %v, by a flowtable of %q", n, err, devices(t))
	}
	l.set()
}

// held: what comes in from the network is led through a device that holds it to a rate, as
// package tc has it.
func (l *lab) held(t *testing.T) {
	nstest.IP(t, "link add ifb0 type ifb")
	nstest.IP(t, "link set ifb0 up")
	nstest.Exec(t, "nft", "add table netdev held; add chain netdev held c { type filter hook ingress device virbr0 priority 1000; }; add rule netdev held c fwd to ifb0")
	conn := l.dial(l.guest, l.serve(l.lan, nstest.LANHost))
	l.settled(conn)
	passed := func() (n int) {
		text, err := os.ReadFile("/sys/class/net/ifb0/statistics/tx_packets")
		if _, scan := fmt.Sscan(string(text), &n); err != nil || scan != nil {
			t.Fatal(err, scan)
		}
		return n
	}
	before := passed()
	if err := ask(conn, 50, mendLimit); err != nil {
		t.Fatal(err)
	}
	if n := passed() - before; n < 50 {
		t.Errorf("of 50 packets of an offloaded connection %d took the way that is held to a rate", n)
	}
}

// TestDevices holds that the flowtable has the bridges of networks and the devices that
// each are networks, one by one.
func each(all []firewall.Network) iter.Seq[*firewall.Network] {
	return func(yield func(*firewall.Network) bool) {
		for i := range all {
			if !yield(&all[i]) {
				return
			}
		}
	}
}

// lead elsewhere, as they come and go, and that the table is put back, adopted and removed.
func TestDevices(t *testing.T) {
	nstest.RunInGuest(t, kernel, func(t *testing.T) {
		l := newLab(t, offload.Config{Default: true})
		l.network.Offload = firewall.OffloadUnset
		ctx, cancel := context.WithCancel(t.Context())
		var watching sync.WaitGroup
		watching.Go(func() { _ = l.table.Watch(ctx) })
		defer watching.Wait()
		defer cancel()
		l.set()
		wantDevices(t, "eno1", "virbr0")
		conn := l.dial(l.guest, l.serve(l.lan, nstest.LANHost))
		l.settled(conn)
		nstest.IP(t, "link add eno2 type veth peer name far")
		nstest.IP(t, "link set eno2 up")
		nstest.IP(t, "addr add 198.51.100.1/24 dev eno2")
		nstest.IP(t, "link add eno3 type veth peer name far3") // has no address
		nstest.IP(t, "link set eno3 up")
		wantDevices(t, "eno1", "eno2", "virbr0")
		l.offloaded(1)
		all := []firewall.Network{l.network}
		for i, other := range []firewall.Network{
			{Mode: firewall.ModeRoute}, {Mode: firewall.ModeNAT, Offload: firewall.OffloadOff}, {Mode: firewall.ModeOpen}, {Mode: firewall.ModeIsolated},
		} {
			other.Bridge = fmt.Sprintf("virbr%d", i+1)
			other.Subnets = []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i), 1}), 24)}
			nstest.IP(t, "link add "+other.Bridge+" type bridge")
			nstest.IP(t, "link set "+other.Bridge+" up")
			nstest.IP(t, "addr add "+other.Subnets[0].String()+" dev "+other.Bridge)
			if err := l.firewall.Set(t.Context(), other); err != nil {
				t.Fatal(err)
			}
			all = append(all, other)
		}
		wantDevices(t, "eno1", "eno2", "virbr0", "virbr1", "virbr3")
		l.settled(conn)
		nstest.IP(t, "link del eno2")
		nstest.IP(t, "link del virbr3")
		wantDevices(t, "eno1", "virbr0", "virbr1")
		nstest.IP(t, "link add eno2 type veth peer name far") // another one of that name
		nstest.IP(t, "link set eno2 up")
		nstest.IP(t, "addr add 198.51.100.1/24 dev eno2")
		wantDevices(t, "eno1", "eno2", "virbr0", "virbr1")
		for _, damage := range []string{"delete table inet vnetd_offload", "flush ruleset", "flush chain inet vnetd_offload forward", "flush set inet vnetd_offload links"} {
			nstest.Exec(t, "nft", damage)
			nstest.Eventually(t, mendLimit, "the table after "+damage, func() error {
				out := nstest.Exec(t, "nft", "list ruleset")
				if strings.Count(out, "flow add @flows") != 2 || strings.Count(out, `"eno2"`) != 1 {
					return fmt.Errorf("the rules are\n%s", out)
				}
				return nil
			})
		}
		cancel()
		watching.Wait()
		next := offload.New(offload.Config{Default: true}) // as after a restart
		next.Set(each(all))
		wantDevices(t, "eno1", "eno2", "virbr0", "virbr1")
		next.Set(each(all[3:4]))
		if got := devices(t); got != nil {
			t.Errorf("with a network whose bridge is gone the flowtable has %q", got)
		}
		next.Set(each(all))
		wantDevices(t, "eno1", "eno2", "virbr0", "virbr1")
		if err := errors.Join(next.Purge(), next.Err(), next.Close()); err != nil {
			t.Error(err)
		}
		if out := nstest.Exec(t, "nft", "list tables"); strings.Contains(out, "offload") {
			t.Errorf("left behind:\n%s", out)
		}
	})
}

// TestKernelWithout holds that connections pass the rules where the kernel has no
// flowtables, as this machine's has none, and that it is a condition.
func TestKernelWithout(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t, offload.Config{Default: true})
		l.set()
		if l.table.Err() == nil {
			t.Fatal("this kernel has flowtables: the test needs one that has none")
		}
		l.talk(l.dial(l.guest, l.serve(l.lan, nstest.LANHost)))
		found, err := l.firewall.Conditions(t.Context())
		i := slices.IndexFunc(found, func(c firewall.Condition) bool { return c.Kind == firewall.KindNoOffload })
		if i < 0 || !found[i].Harmless || err != nil {
			t.Errorf("the conditions are %+v, %v", found, err)
		}
		if err := l.firewall.Purge(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
