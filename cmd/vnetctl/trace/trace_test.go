package trace_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/trace"
	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

const (
	macA = "52:54:00:00:00:0a"
	macB = "52:54:00:00:00:0b"
	macC = "52:54:00:00:00:0c"
)

// host is a hypervisor with two guests on br0, and a LAN with a way back to them.
type host struct {
	t       *testing.T
	a, lan  *nstest.NS
	options trace.Options
}

// newHost makes a hypervisor on which the guest a reaches everybody.
func newHost(t *testing.T) *host {
	t.Helper()
	if err := unix.Mount("tracefs", "/sys/kernel/tracing", "tracefs", 0, ""); err != nil {
		t.Fatalf("mounting tracefs: %v", err)
	}
	nstest.IP(t, "link add br0 type bridge")
	nstest.IP(t, "addr add 192.0.2.1/24 dev br0")
	nstest.IP(t, "link set br0 up")
	// The kernel's reasons come with the name of the link, which tests beside this one are
	// not to have.
	name := fmt.Sprintf("a%06d", rand.IntN(1e6))
	h := &host{t: t, a: nstest.Guest(t, "br0", name, macA)}
	b := nstest.Guest(t, "br0", "b", macB)
	h.a.IP("addr add 192.0.2.2/24 dev eth0")
	h.a.IP("route add default via 192.0.2.1")
	b.IP("addr add 192.0.2.3/24 dev eth0")
	h.lan = nstest.NewLAN(t)
	h.lan.IP("route add 192.0.2.0/24 via " + nstest.Uplink)
	h.sysctl("net/ipv4/ip_forward", "1")
	h.sysctl("net/ipv4/conf/all/rp_filter", "0")
	h.options = trace.Options{
		Port: port("v-"+name, macA, "192.0.2.2"), Guests: []api.Port{port("v-"+name, macA, "192.0.2.2"), port("v-b", macB, "192.0.2.3")},
		To: netip.MustParseAddr(nstest.LANHost), Time: 3 * time.Second,
	}
	nstest.Eventually(t, time.Minute, "the guest reaches the LAN", func() error {
		return h.a.Command(t.Context(), "ping", "-c", "1", "-W", "1", nstest.LANHost).Run()
	})
	return h
}

func port(name, mac, addr string) api.Port {
	return api.Port{IfName: name, MAC: mac, Bridge: "br0", Network: "default", Name: strings.TrimPrefix(name, "v-"), Addresses: []netip.Addr{netip.MustParseAddr(addr)}}
}

func (h *host) sysctl(name, value string) {
	h.t.Helper()
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0); err != nil {
		h.t.Fatal(err)
	}
}

// port is the link of the guest a.
func (h *host) port() string { return h.options.Port.IfName }

// nft adds rules.
func (h *host) nft(lines ...string) {
	h.t.Helper()
	for _, line := range lines {
		nstest.Exec(h.t, "nft", line)
	}
}

// run traces while the guest pings with more arguments, and again, for longer, where the machine
// left the guest no time to.
func (h *host) run(args ...string) (r trace.Result) {
	h.t.Helper()
	defer func(d time.Duration) { h.options.Time = d }(h.options.Time)
	for range 6 {
		if r = h.runOnce(args...); r.Verdict.Cause != "silent" {
			break
		}
		h.options.Time *= 2
	}
	return r
}

func (h *host) runOnce(args ...string) trace.Result {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 5*time.Minute)
	defer cancel()
	pinged := make(chan struct{})
	h.options.Ready = func() {
		go func() {
			defer close(pinged)
			to := h.options.To.String()
			if !h.options.To.IsValid() {
				to = nstest.LANHost
			}
			_ = h.a.Command(ctx, "ping", append(args, "-c", "1000", "-i", "0.2", "-W", "1", to)...).Run()
		}()
	}
	r, err := trace.Run(ctx, h.options)
	cancel()
	<-pinged
	if err != nil {
		h.t.Fatal(err)
	}
	if tables := nstest.Exec(h.t, "nft", "list", "tables"); strings.Contains(tables, "vnetd_trace") {
		h.t.Errorf("the trace left its tables: %s", tables)
	}
	return r
}

// ownLink has this host be on the bridge by a link of its own as well, as in a network that spans hosts, where the
// way back is strict, and the guest send there.
func (h *host) ownLink() {
	h.t.Helper()
	for _, args := range []string{
		"link add vh0 address " + macC + " type veth peer name vhp0", "link set vhp0 master br0 up", "link set vh0 up", "addr add 192.0.2.4/32 dev vh0",
		"route add 192.0.2.0/24 dev vh0 table 9", "rule add from 192.0.2.4 lookup 9",
	} {
		nstest.IP(h.t, args)
	}
	h.sysctl("net/ipv4/conf/br0/arp_ignore", "1")
	for _, name := range []string{"br0", "vh0"} {
		h.sysctl("net/ipv4/conf/"+name+"/rp_filter", "1")
	}
	h.options.To = netip.MustParseAddr("192.0.2.4")
	h.options.Guests = append(h.options.Guests, port("vhp0", macC, "192.0.2.4"))
}

// TestStagedDrops stages a drop, and has the trace find it.
func TestStagedDrops(t *testing.T) {
	for _, tt := range []struct {
		name   string
		stage  func(h *host)
		ping   []string
		cause  string
		text   string // part of the verdict's
		kernel string // the kernel's reason, empty where it has none of its own
	}{
		{"none", func(*host) {}, nil, "answered", "both ways", ""},
		{"policy", func(h *host) {
			h.nft("add table ip vnetd", "add chain ip vnetd filter { type filter hook forward priority 0; }", "add rule ip vnetd filter iifname br0 counter drop")
		}, nil, "rule-of-vnetd", `table ip vnetd, chain filter: iifname "br0" counter`, "NETFILTER_DROP"},
		{"guard", func(h *host) {
			h.nft("add table netdev vnetd_guard_7", "add chain netdev vnetd_guard_7 ports { type filter hook ingress device "+h.port()+" priority -100; }", "add rule netdev vnetd_guard_7 ports ip saddr 192.0.2.2 drop")
		}, nil, "port-guard", "ip saddr 192.0.2.2 drop", "NETFILTER_DROP"},
		{"foreign", func(h *host) {
			h.nft("add table inet theirs", "add chain inet theirs deep", "add chain inet theirs onward { type filter hook forward priority 10; }",
				"add rule inet theirs onward jump deep", "add rule inet theirs deep ip daddr 203.0.113.0/24 drop")
		}, nil, "rule-of-others", "table inet theirs, chain deep: ip daddr 203.0.113.0/24 drop", "NETFILTER_DROP"},
		{"foreign policy", func(h *host) {
			h.nft("add table ip theirs", "add chain ip theirs onward { type filter hook forward priority 10; policy drop; }")
		}, nil, "rule-of-others", "table ip theirs, chain onward: the policy", "NETFILTER_DROP"},
		{"iptables", func(h *host) {
			nstest.Exec(h.t, "iptables-nft", "-I", "FORWARD", "-i", "br0", "-j", "DROP")
		}, nil, "rule-of-others", "table ip filter, chain FORWARD: iifname \"br0\"", "NETFILTER_DROP"},
		{"answers", func(h *host) {
			h.nft("add table ip theirs", "add chain ip theirs onward { type filter hook forward priority 10; }", "add rule ip theirs onward oifname br0 drop")
		}, nil, "rule-of-others", "answers dropped in table ip theirs", ""},
		{"reverse path", func(h *host) {
			h.sysctl("net/ipv4/conf/br0/rp_filter", "1")
			nstest.IP(h.t, "route add 192.0.2.2/32 dev eno1")
		}, nil, "reverse-path", "br0", "IP_RPFILTER"},
		{"mtu", func(h *host) {
			nstest.IP(h.t, "link set eno1 mtu 1000")
		}, []string{"-M", "do", "-s", "1300"}, "mtu", "1328 bytes are too big for the MTU 1000 of eno1", "PKT_TOO_BIG"},
		{"no route", func(h *host) {
			nstest.IP(h.t, "route del default")
			h.options.To = netip.MustParseAddr("198.51.100.1")
		}, nil, "no-route", "198.51.100.1: no route", "IP_INNOROUTES"},
		{"prohibited", func(h *host) {
			nstest.IP(h.t, "route add prohibit 203.0.113.1/32")
		}, nil, "no-route", "prohibited", ""},
		{"forwarding", func(h *host) {
			h.sysctl("net/ipv4/conf/br0/forwarding", "0")
		}, nil, "link-forwarding-off", "br0", ""},
		{"connections", func(h *host) {
			h.nft("add table ip theirs", "add chain ip theirs onward { type filter hook forward priority 10; }", "add rule ip theirs onward ct state invalid counter")
			h.fillConnections()
		}, nil, "conntrack-full", "connections of at most", ""},
		{"isolated", func(h *host) {
			nstest.IP(h.t, "link set "+h.port()+" type bridge_slave isolated on")
			nstest.IP(h.t, "link set v-b type bridge_slave isolated on")
			h.options.To = netip.MustParseAddr("192.0.2.3")
		}, nil, "isolated", "and v-b are", ""},
		{"spanning tree", func(h *host) {
			nstest.IP(h.t, "link set "+h.port()+" nomaster")
			nstest.IP(h.t, "link set br0 type bridge stp_state 1")
			nstest.IP(h.t, "link set "+h.port()+" master br0")
		}, nil, "spanning-tree", "of bridge br0 is listening", "BRIDGE_INGRESS_STP_STATE"},
		{"queue", func(h *host) {
			nstest.Exec(h.t, "tc", "qdisc", "add", "dev", "eno1", "root", "pfifo", "limit", "0")
		}, nil, "queue-full", "queue of eno1", "QDISC_DROP"},
		{"ttl", func(*host) {}, []string{"-t", "1"}, "ttl", "TTL", ""},
		{"neighbour", func(h *host) {
			h.options.To = netip.MustParseAddr("203.0.113.9")
		}, nil, "no-neighbour", "203.0.113.9 does not answer on eno1", ""},
		{"nobody", func(h *host) {
			h.options.To = netip.MustParseAddr("192.0.2.9")
		}, nil, "no-neighbour", "192.0.2.9", ""},
		{"no way back", func(h *host) {
			h.lan.IP("route del 192.0.2.0/24")
		}, nil, "no-answer", "left by eno1", ""},
		{"no way on", func(h *host) {
			h.options.To = netip.Addr{}
			h.lan.IP("route del 192.0.2.0/24")
		}, nil, "no-answer", "passed all rules", ""},
		{"whatever it sends", func(h *host) {
			h.options.To, h.options.Port.Addresses = netip.Addr{}, nil
			h.nft("add table inet theirs", "add chain inet theirs onward { type filter hook forward priority 10; }", "add rule inet theirs onward icmp type echo-request drop")
		}, nil, "rule-of-others", "icmp type echo-request drop", "NETFILTER_DROP"},
		{"to the host", func(h *host) {
			h.options.To = netip.MustParseAddr("192.0.2.1")
			h.nft("add table inet theirs", "add chain inet theirs here { type filter hook input priority 10; }", "add rule inet theirs here ip protocol icmp drop")
		}, nil, "rule-of-others", "chain here: ip protocol icmp drop", "NETFILTER_DROP"},
		{"to another guest", func(h *host) {
			h.options.To = netip.MustParseAddr("192.0.2.3")
			h.nft("add table bridge theirs", "add chain bridge theirs across { type filter hook forward priority 0; }", "add rule bridge theirs across ip daddr 192.0.2.3 drop")
		}, nil, "rule-of-others", "table bridge theirs, chain across: ip daddr 192.0.2.3 drop", "NETFILTER_DROP"},
		{"to the host's own link", func(h *host) {
			h.ownLink()
			h.nft("add table inet theirs", "add chain inet theirs here { type filter hook input priority 10; }", "add rule inet theirs here iifname vh0 ip protocol icmp drop")
		}, nil, "rule-of-others", `chain here: iifname "vh0" ip protocol icmp drop`, "NETFILTER_DROP"},
		{"the host's own link answers", func(h *host) { h.ownLink() }, nil, "answered", "both ways", ""},
		{"another guest answers", func(h *host) {
			h.options.To = netip.MustParseAddr("192.0.2.3")
		}, nil, "answered", "both ways", ""},
		{"IPv6", func(h *host) { h.second() }, nil, "answered", "both ways", ""},
		{"IPv6 without a route", func(h *host) {
			h.second()
			h.options.To = netip.MustParseAddr("2001:db8:aaaa::1")
			nstest.IP(h.t, "-6 route del default")
		}, nil, "no-route", "2001:db8:aaaa::1: no route", ""},
		{"IPv6 rule", func(h *host) {
			h.second()
			h.nft("add table ip6 theirs", "add chain ip6 theirs onward { type filter hook forward priority 10; }", "add rule ip6 theirs onward meta l4proto ipv6-icmp drop")
		}, nil, "rule-of-others", "table ip6 theirs, chain onward", "NETFILTER_DROP"},
		{"a guest that hangs", func(h *host) { h.hang() }, nil, "queue-full", "which it does not read", ""},
		{"link", func(h *host) {
			nstest.IP(h.t, "link set "+h.port()+" down")
		}, nil, "link-down", "is down", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				h := newHost(t)
				tt.stage(h)
				r := h.run(tt.ping...)
				if r.Verdict.Cause != tt.cause || !strings.Contains(r.Verdict.Text, tt.text) || r.Verdict.Remedy == "" && tt.cause != "answered" {
					t.Errorf("%+v, want %s with %q", r.Verdict, tt.cause, tt.text)
				}
				if tt.kernel != "" && r.Reasons[tt.kernel] == 0 {
					t.Errorf("the kernel says %v, want %s", r.Reasons, tt.kernel)
				}
				if t.Failed() || testing.Verbose() {
					for _, s := range r.Steps {
						t.Logf("%s: %s", s.Where, s.Text)
					}
					t.Logf("%v %v %v", r.Counters, r.Reasons, r.Unseen)
				}
			})
		})
	}
}

// debian is a guest with what traces take.
var debian = nstest.GuestFiles{
	Programs: []string{"ping", "nft"},
	Modules: []string{
		"llc", "stp", "bridge", "veth", "mrp", "garp", "8021q", "nfnetlink", "libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_tables", "nft_ct", "nft_limit", "nft_meta_bridge",
	},
}

// TestVLANs stages drops by a bridge's VLANs, and one more of a rule, on Debian's kernel:
// not every kernel has VLANs.
func TestVLANs(t *testing.T) {
	nstest.RunInGuest(t, debian, func(t *testing.T) {
		h := newHost(t)
		h.options.Time = 4 * time.Second // without KVM all takes its time
		nstest.IP(t, "link set br0 type bridge vlan_filtering 1")
		expect := func(what, cause, text string, args ...string) {
			t.Helper()
			if r := h.run(args...); r.Verdict.Cause != cause || !strings.Contains(r.Verdict.Text, text) {
				t.Errorf("%s: %+v, want %s with %q\n%+v", what, r.Verdict, cause, text, r)
			} else if len(r.Unseen) > 0 {
				t.Errorf("%s: not seen: %q", what, r.Unseen)
			}
		}
		vlan := func(args ...string) { nstest.Exec(t, "bridge", append([]string{"vlan"}, args...)...) }
		expect("all in VLAN 1", "answered", "both ways")
		h.nft("add table inet theirs", "add chain inet theirs onward { type filter hook forward priority 10; }", "add rule inet theirs onward iifname br0 drop")
		expect("a rule", "rule-of-others", `iifname "br0" drop`)
		h.nft("delete table inet theirs")

		vlan("del", "dev", h.port(), "vid", "1")
		expect("no VLAN without a tag", "vlan", "has no VLAN for frames without a tag")
		h.options.To = netip.MustParseAddr("192.0.2.3")
		vlan("add", "dev", h.port(), "vid", "5", "pvid", "untagged")
		expect("the other one is not in it", "vlan", "in VLAN 5, which port v-b of the destination does not have")
		vlan("add", "dev", "v-b", "vid", "5", "pvid", "untagged")
		expect("both are in it", "answered", "both ways")
		h.a.IP("link add link eth0 name v7 type vlan id 7")
		h.a.IP("addr add 198.51.100.2/24 dev v7")
		h.a.IP("link set v7 up")
		h.options.To = netip.MustParseAddr("198.51.100.3")
		expect("a tag that the port does not have", "vlan", "the guest sends in VLAN 7, which port v-a")
	})
}

// second gives guest and host addresses of IPv6, and traces to the LAN's.
func (h *host) second() {
	h.t.Helper()
	h.sysctl("net/ipv6/conf/all/forwarding", "1")
	nstest.IP(h.t, "-6 addr add 2001:db8:1::1/64 dev br0 nodad")
	h.a.IP("-6 addr add 2001:db8:1::2/64 dev eth0 nodad")
	h.a.IP("-6 route add default via 2001:db8:1::1")
	h.lan.IP("-6 route add 2001:db8:1::/64 via " + nstest.Uplink6)
	nstest.IP(h.t, "-6 route replace default via "+nstest.LANHost6)
	h.options.Port.Addresses = append(h.options.Port.Addresses, netip.MustParseAddr("2001:db8:1::2"))
	h.options.To = netip.MustParseAddr(nstest.LANHost6)
	nstest.Eventually(h.t, time.Minute, "the guest reaches the LAN", func() error {
		return h.a.Command(h.t.Context(), "ping", "-c", "1", "-W", "1", nstest.LANHost6).Run()
	})
}

// hang puts a guest in the port's place that has its device open and does not read, while
// the host sends to it.
func (h *host) hang() {
	h.t.Helper()
	name := "hang0"
	tap, err := nstest.OpenTAP(name)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = tap.Close() })
	nstest.IP(h.t, "link set "+name+" txqueuelen 2 master br0 up")
	nstest.IP(h.t, "addr add 198.51.100.1/24 dev br0")
	nstest.IP(h.t, "neigh add 198.51.100.2 lladdr "+macC+" dev br0")
	nstest.Exec(h.t, "bridge", "fdb", "add", macC, "dev", name, "master", "static")
	h.options.Port = port(name, macC, "198.51.100.2")
	cmd := exec.CommandContext(h.t.Context(), "ping", "-c", "10000", "-i", "0.1", "198.51.100.2")
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cmd.Wait() })
}

// fillConnections fills the table of connections, whose size a namespace can't change, with
// such as the kernel does not drop for new ones.
func (h *host) fillConnections() {
	h.t.Helper()
	b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		h.t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || most > 1<<20 {
		h.t.Fatalf("%d connections (%v) are too many for a test", most, err)
	}
	s, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		h.t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	const batch = 200
	for first := 0; first < most; first += batch {
		var messages [][]byte
		for i := first; i < min(first+batch, most); i++ {
			messages = append(messages, connection(i))
		}
		for _, err := range s.Do(messages...) {
			if errors.Is(err, unix.ENOMEM) { // some were there before: it is full
				return
			}
			if err != nil {
				h.t.Fatalf("making connections from %d on: %v", first, err)
			}
		}
	}
}

// connection is the request for a connection of UDP that was answered
// (linux/netfilter/nfnetlink_conntrack.h).
func connection(i int) []byte {
	const (
		original, reply, status, timeout = 1, 2, 3, 7             // CTA_…
		addresses, protocol              = 1, 2                   // CTA_TUPLE_…
		seen, assured, confirmed         = 1 << 1, 1 << 2, 1 << 3 // IPS_…
	)
	nest := func(kind uint16, parts ...[]byte) []byte {
		return netlink.AppendAttribute(nil, unix.NLA_F_NESTED|kind, slices.Concat(parts...))
	}
	attribute := func(kind uint16, value ...byte) []byte { return netlink.AppendAttribute(nil, kind, value) }
	client := []byte{198, 51, 100, byte(i >> 16)}
	port, server := []byte{byte(i >> 8), byte(i)}, []byte{198, 51, 100, 200}
	tuple := func(kind uint16, from, to, fromPort, toPort []byte) []byte {
		return nest(kind, nest(addresses, attribute(1, from...), attribute(2, to...)), nest(protocol, attribute(1, unix.IPPROTO_UDP), attribute(2, fromPort...), attribute(3, toPort...)))
	}
	return netlink.NewMessage(unix.NFNL_SUBSYS_CTNETLINK<<8, unix.NLM_F_REQUEST|unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, []byte{unix.AF_INET, 0, 0, 0},
		tuple(original, client, server, port, []byte{0, 53}), tuple(reply, server, client, []byte{0, 53}, port),
		attribute(status, 0, 0, 0, seen|assured|confirmed), attribute(timeout, 0, 0, 2, 0))
}
