package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/offload"
)

// offloadProgram is the name under which the bench is a program that measures connections
// with and without offload, in a machine of its own, with Debian's kernel.
const offloadProgram = "offload"

// The load: in each of some rounds a stream for so many seconds of segments as large as
// devices take, and one of single packets. All rule sets take turns.
const (
	offloadSeconds = 3
	offloadRounds  = 3
)

// offloaded prints what a guest gets through to the LAN with and without offload.
func offloaded(b *bench) {
	b.printf("\nDebian's kernel, emulated:\n")
	modules := []string{
		"llc", "stp", "bridge", "veth", "nfnetlink", "libcrc32c", "nf_defrag_ipv4", "nf_defrag_ipv6", "nf_conntrack", "nf_nat", "nf_tables",
		"nft_ct", "nft_chain_nat", "nft_masq", "nft_nat", "nf_reject_ipv4", "nf_reject_ipv6", "nft_reject", "nft_reject_ipv4", "nft_reject_ipv6", "nft_redir",
		"nf_conntrack_netlink", "nf_flow_table", "nf_flow_table_inet", "nft_flow_offload",
	}
	m := nstest.BootGuest(b, nstest.GuestConfig{
		Name: offloadProgram, Memory: 512, CPUs: 2,
		Initrd: nstest.GuestInitrd(b, nstest.GuestFiles{Programs: []string{"ip", "nft", "iperf3", "ss", "ethtool", b.self(offloadProgram)}, Modules: modules}),
	})
	out, status, err := m.Run(b.Context(), "mkdir -p /run/netns && for i in "+strings.Join(modules, " ")+"; do insmod /modules/$i.ko || exit 1; done && "+offloadProgram)
	if err != nil || status != 0 {
		b.Fatalf("measuring on Debian's kernel: status %d, %v\n%s", status, err, out)
	}
	b.printf("%s", out)
}

// measureOffload is the program. It returns the exit code.
func measureOffload() int {
	err := nstest.Play(context.Background(), os.Stderr, func(t nstest.TB) {
		fmt.Print(offloadTable(&bench{TB: t, root: t, out: os.Stdout}))
	})
	if err != nil {
		return 1
	}
	return 0
}

// offloadCost is what was measured of one rule set, without or with offload.
type offloadCost struct {
	large, one stream // of segments as large as can be, and of single packets
}

// stream is what became of a stream: Mbit/s, and seconds of processors for a Gbit.
type stream struct{ mbit, cpu float64 }

// better keeps what is better of each.
func (c *offloadCost) better(o offloadCost) {
	c.large.better(o.large)
	c.one.better(o.one)
}

func (s *stream) better(o stream) {
	s.mbit = max(s.mbit, o.mbit)
	if s.cpu == 0 || o.cpu < s.cpu {
		s.cpu = o.cpu
	}
}

// offloadTable measures rules of one and of many networks, without and with offload in turn.
func offloadTable(b *bench) string {
	lan := nstest.NewLAN(b)
	nstest.IP(b, "link add "+bridge+" address 52:54:00:00:00:01 type bridge")
	nstest.IP(b, "link set "+bridge+" up")
	guest := nstest.Guest(b, bridge, "guest", guardCard.String())
	network := numbered(0, firewall.ModeNAT)
	nstest.IP(b, "addr add "+network.Subnets[0].String()+" dev "+bridge)
	guest.IP("addr add " + manyGuest + " dev " + guestLink)
	guest.IP("route add default via " + network.Subnets[0].Addr().String())
	lan.IP("route replace " + network.Subnets[0].Masked().String() + " via " + nstest.Uplink)
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		b.Fatalf("having the kernel forward: %w", err)
	}
	l := &offloadLab{bench: b, guest: guest, lan: lan, table: offload.New(offload.Config{Default: true}), network: network}
	rules := []offloadRules{
		{rulesetOf{"vnetd, nftables", 1, func(b *bench, n int) { fillRules(b, newTables(b), n) }}, false},
		{rulesetOf{"libvirt, nftables", 1, fillLibvirtTables}, false},
		{rulesetOf{"libvirt, nftables", someRules, fillLibvirtTables}, false},
		{rulesetOf{"vnetd, nftables, routed", 1, fillRouted}, false},
	}
	for i := range slices.Clone(rules) {
		rules = slices.Insert(rules, 2*i+1, offloadRules{rules[2*i].rulesetOf, true})
	}
	rules = append(rules, offloadRules{rulesetOf{"the same, untracked", 1, fillUntracked}, false})
	costs := make([]offloadCost, len(rules))
	for range offloadRounds {
		for i, r := range rules {
			costs[i].better(l.measure(r))
		}
	}
	t := new(table)
	t.add("rules", "networks", "offload", "stream", "CPU/Gbit", "single packets", "CPU/Gbit")
	for i, r := range rules {
		c := costs[i]
		t.add(r.name, strconv.Itoa(r.networks), map[bool]string{false: "no", true: "yes"}[r.offload],
			fmt.Sprintf("%.0f Mbit/s", c.large.mbit), fmt.Sprintf("%.2f s", c.large.cpu), fmt.Sprintf("%.0f Mbit/s", c.one.mbit), fmt.Sprintf("%.2f s", c.one.cpu))
	}
	return t.String()
}

// offloadRules is rules, and whether connections go past them.
type offloadRules struct {
	rulesetOf
	offload bool
}

// fillRouted writes the rules of one network that is not translated.
func fillRouted(b *bench, _ int) {
	if err := newTables(b).Set(b.Context(), numbered(0, firewall.ModeRoute)); err != nil {
		b.Fatalf("writing rules: %w", err)
	}
}

// fillUntracked does, and has the kernel keep no state of its connections.
func fillUntracked(b *bench, n int) {
	fillRouted(b, n)
	nftScript(b, fmt.Sprintf("table ip raw {\n chain prerouting {\n type filter hook prerouting priority raw;\n iifname %q notrack\n ip daddr %s notrack\n }\n}\n",
		bridge, numbered(0, firewall.ModeRoute).Subnets[0].Masked()))
}

// offloadLab is a guest of a NAT network, and a LAN.
type offloadLab struct {
	*bench
	guest, lan *nstest.NS
	table      *offload.Table
	network    firewall.Network
}

// measure takes the figures of one rule set.
func (l *offloadLab) measure(r offloadRules) (c offloadCost) {
	err := nstest.Play(l.Context(), os.Stderr, func(t nstest.TB) {
		b := &bench{TB: t, root: t, out: l.out}
		flushRules(b)
		r.write(b, r.networks)
		if l.table.Set(slices.Values([]*firewall.Network{})); r.offload {
			l.table.Set(slices.Values([]*firewall.Network{&l.network}))
		}
		if err := l.table.Err(); err != nil {
			b.Fatalf("offloading: %w", err)
		}
		c.large = l.stream()
		l.segments("off")
		c.one = l.stream()
		l.segments("on")
	})
	if err != nil {
		l.Fatalf("%w", err)
	}
	return c
}

// segments has devices take more than one packet at a time, or not.
func (l *offloadLab) segments(onOff string) {
	l.guest.Exec("ethtool", "-K", guestLink, "tso", onOff, "gso", onOff, "gro", onOff)
	l.lan.Exec("ethtool", "-K", "lan0", "tso", onOff, "gso", onOff, "gro", onOff)
}

// stream measures a stream from the guest to the LAN.
func (l *offloadLab) stream() stream {
	serve := l.lan.Command(l.Context(), "iperf3", "-s", "-1")
	if err := serve.Start(); err != nil {
		l.Fatalf("starting a server: %w", err)
	}
	defer func() { _ = serve.Wait() }()
	nstest.Eventually(l, time.Minute, "a server", func() error {
		return l.lan.Command(l.Context(), "sh", "-c", "ss -ltn | grep -q :5201").Run()
	})
	var report struct {
		End struct {
			Received struct {
				Bits  float64 `json:"bits_per_second"`
				Bytes float64 `json:"bytes"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	before := busyTime(l.bench)
	out := l.guest.Exec("iperf3", "-c", nstest.LANHost, "-J", "-t", strconv.Itoa(offloadSeconds))
	busy := busyTime(l.bench) - before
	if json.Unmarshal([]byte(out), &report) != nil || report.End.Received.Bytes == 0 {
		l.Fatalf("iperf3 says %s", out)
	}
	return stream{report.End.Received.Bits / 1e6, busy.Seconds() / (report.End.Received.Bytes * 8 / 1e9)}
}

// busyTime is how long all processors have worked since the machine runs.
func busyTime(b *bench) time.Duration {
	text, err := os.ReadFile("/proc/stat")
	fields := strings.Fields(string(text))
	if err != nil || len(fields) < 9 {
		b.Fatalf("reading the times of processors: %w", err)
	}
	var ticks int64
	for i, field := range fields[1:9] {
		n, _ := strconv.ParseInt(field, 10, 64)
		if i != 3 && i != 4 { // idle, iowait
			ticks += n
		}
	}
	const perSecond = 100 // USER_HZ
	return time.Duration(ticks) * time.Second / perSecond
}
