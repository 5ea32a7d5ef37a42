package firewall_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/flows"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/test/libvirtcorpus"
)

// replayed is a network of libvirt's tests, with a bridge and subnets of its own: all are up
// together.
type replayed struct {
	firewall.Network
	commands string // of libvirt's nftables backend, as nft(8) reads them
	gateways []netip.Addr
}

// libvirtsNetworks are those of which libvirt tests the rules, and the commands that make
// what they have in common.
func libvirtsNetworks(t *testing.T, tests string) (base string, all []replayed) {
	t.Helper()
	dir := filepath.Join(tests, "networkxml2firewalldata")
	files, err := filepath.Glob(filepath.Join(dir, "*.xml"))
	if err != nil || len(files) < 10 {
		t.Fatalf("%s has %d networks, %v", dir, len(files), err)
	}
	for i, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".xml")
		own := strings.NewReplacer("virbr0", fmt.Sprintf("virbr%d", i), "192.168.", fmt.Sprintf("10.%d.", i), "2001:db8:ca2:2:", fmt.Sprintf("2001:db8:ca2:%x:", i+2))
		text, commands := readFile(t, file), readFile(t, filepath.Join(dir, name+"-linux.nftables"))
		n, err := netdef.Parse([]byte(own.Replace(text)))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		n.Name = name
		all = append(all, replayed{translate.Firewall(n), nftCommands(own.Replace(commands)), translate.Gateways(n)})
	}
	return nftCommands(readFile(t, filepath.Join(dir, "base.nftables"))), all
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// nftCommands are the commands of nft in those that libvirt executes, which take several lines
// each: what asks for something, and those of other programs, are left out.
func nftCommands(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		command, ours := strings.CutPrefix(strings.TrimSpace(line), "nft ")
		command = strings.TrimPrefix(strings.ReplaceAll(command, "'", ""), "-ae ")
		if ours && !strings.HasPrefix(command, "list ") {
			b.WriteString(command + "\n")
		}
	}
	return b.String()
}

// The addresses of two hosts outside, behind two devices of this one; the second is what
// guests pretend to be.
var (
	outside  = []netip.Addr{netip.MustParseAddr(nstest.LANHost), netip.MustParseAddr(nstest.LANHost6)}
	outside2 = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:fffe::1")}
)

// wire makes the networks' bridges with two guests each, and two hosts outside.
func (w *wires) wire(networks []replayed) {
	w.Helper()
	w.join("lan", "enp0s7", "", 250, outside...)
	w.join("lan2", "enp0s8", "", 251, outside2...)
	for _, args := range []string{
		"addr add " + nstest.Uplink + "/24 dev enp0s7", "addr add " + nstest.Uplink6 + "/64 dev enp0s7 nodad",
		"addr add 198.51.100.2/24 dev enp0s8", "addr add 2001:db8:fffe::2/64 dev enp0s8 nodad",
	} {
		nstest.IP(w, args)
	}
	for _, a := range []string{nstest.Uplink, nstest.Uplink6} {
		w.self.addrs = append(w.self.addrs, netip.MustParseAddr(a))
	}
	for i, n := range networks {
		nstest.IP(w, "link add "+n.Bridge+" address 02:00:00:00:02:00 type bridge")
		nstest.IP(w, "link set "+n.Bridge+" up")
		for j, s := range n.Subnets {
			nodad := ""
			if s.Addr().Is6() {
				nodad = " nodad"
			}
			nstest.IP(w, "addr add "+netip.PrefixFrom(n.gateways[j], s.Bits()).String()+" dev "+n.Bridge+nodad)
		}
		w.self.addrs = append(w.self.addrs, n.gateways...)
		for j, name := range []string{n.Name, n.Name + "'s other"} {
			var addrs []netip.Addr
			for _, g := range n.gateways {
				a := g.Next()
				for range j {
					a = a.Next()
				}
				addrs = append(addrs, a)
			}
			w.join(name, fmt.Sprintf("tap%d", 2*i+j), n.Bridge, byte(2*i+j), addrs...).second = j > 0
		}
	}
	w.parties = append(w.parties, w.self)
	for i := range w.count() {
		w.accepts(true, uint8(firstOther+i))
		w.accepts(false, uint8(firstOther+i))
	}
	for _, p := range []uint8{tcp, udp, icmp} {
		w.accepts(true, p)
	}
	for _, p := range []uint8{tcp, udp, icmp6} {
		w.accepts(false, p)
	}
}

// firstOther is the first of the protocols without ports: each address has another one, since
// of two that are translated alike the kernel lets one pass.
const firstOther = 140

// count is how many addresses there are.
func (w *wires) count() (n int) {
	for _, p := range w.parties {
		n += len(p.addrs)
	}
	return n
}

// kinds are the packets that an address sends to others, the index-th of all.
func kinds(index int, is4 bool) []packet {
	echo := uint8(icmp)
	if !is4 {
		echo = icmp6
	}
	const high, privileged = 40000, 600
	all := []packet{
		{protocol: udp, from: high, to: 4000},
		{protocol: udp, from: privileged, to: 4000},
		{protocol: tcp, from: high, to: 80},
		{protocol: echo, from: uint16(1000 + index)},
		{protocol: uint8(firstOther + index)},
	}
	for _, port := range []uint16{53, 67, 68, 69, 546, 547} {
		all = append(all, packet{protocol: udp, from: high, to: port})
	}
	return append(all, packet{protocol: tcp, from: privileged, to: 53})
}

// everything is what everybody sends to everybody.
func (w *wires) everything(networks []replayed) (all []*sending) {
	index := 0
	send := func(from *party, as string, p packet) {
		p.number = uint32(len(all))
		what := "a packet without ports"
		switch {
		case p.protocol == tcp || p.protocol == udp:
			what = fmt.Sprintf("%s to port %d from port %d", map[uint8]string{tcp: "TCP", udp: "UDP"}[p.protocol], p.to, p.from)
		case p.protocol < firstOther:
			what = "an echo"
		}
		all = append(all, &sending{from: from, packet: p, what: fmt.Sprintf("%s of %s, from %s%s to %s", what, from.name, p.source, as, p.dest)})
	}
	for _, from := range w.parties {
		for _, source := range from.addrs {
			to := w.destinations(from, source)
			for _, p := range kinds(index, source.Is4()) {
				p.source = source
				for _, p.dest = range to {
					send(from, "", p)
				}
			}
			for _, as := range w.pretended(networks, from, source) {
				for _, to := range to {
					if !slices.Contains(w.self.addrs, to) {
						send(from, ", which is not its own,", packet{source: as, dest: to, protocol: udp, from: 40001, to: 4001})
					}
				}
			}
			index++
		}
	}
	for _, n := range networks {
		for _, g := range n.gateways {
			for _, to := range groups(g.Is4()) {
				send(w.self, "", packet{source: g, dest: to, protocol: udp, from: 600, to: 5353, device: n.Bridge})
			}
		}
	}
	return all
}

// groups are where packets go to many on a link.
func groups(is4 bool) []netip.Addr {
	if is4 {
		return []netip.Addr{netip.MustParseAddr("224.0.0.251"), netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("255.255.255.255")}
	}
	return []netip.Addr{netip.MustParseAddr("ff02::fb"), netip.MustParseAddr("ff05::c")}
}

// destinations are where a party sends to from an address. The second guest of a network
// speaks with the first one and those outside alone.
func (w *wires) destinations(from *party, source netip.Addr) (all []netip.Addr) {
	for _, to := range w.parties {
		stranger := to.bridge != from.bridge && to.bridge != "" && from.bridge != ""
		if to == from || stranger && (to.second || from.second) {
			continue
		}
		for _, a := range to.addrs {
			if a.Is4() == source.Is4() {
				all = append(all, a)
			}
		}
	}
	return all
}

// pretended are addresses that a guest may pretend to have: of a host outside, and of
// another network's guest.
func (w *wires) pretended(networks []replayed, from *party, source netip.Addr) (all []netip.Addr) {
	i := slices.IndexFunc(networks, func(n replayed) bool { return n.Name == from.name })
	if i < 0 {
		return nil
	}
	for _, a := range outside2 {
		if a.Is4() == source.Is4() {
			all = append(all, a)
		}
	}
	for j := range networks {
		for _, g := range networks[(i+j)%len(networks)].gateways {
			if j > 0 && g.Is4() == source.Is4() {
				return append(all, g.Next())
			}
		}
	}
	return all
}

// fatesUnder are what becomes of everything under rules that do makes. Before, there are no
// rules and no connections.
func (w *wires) fatesUnder(networks []replayed, do func()) (all []*sending, fates []string) {
	w.Helper()
	nstest.Exec(w, "nft", "flush ruleset")
	if err := (flows.Table{}).End(func(*firewall.Flow) bool { return true }); err != nil {
		w.Fatal(err)
	}
	do()
	all = w.everything(networks)
	return all, w.fates(all)
}

// onPurpose are the reasons why vnetd lets less pass than libvirt, whose answers to "may this
// come in" do not depend on which network it comes from. The first that fits is why.
var onPurpose = []struct {
	why  string
	fits func(to *replayed, want, got string) bool
}{
	{
		"what a guest may not send does not reach a routed network either",
		func(to *replayed, want, got string) bool {
			return to != nil && to.Mode != firewall.ModeIsolated && strings.HasPrefix(want, "arrives") && strings.HasPrefix(got, rejected)
		},
	}, {
		"what a guest may not send does not reach connections of another network's guests either",
		func(_ *replayed, want, got string) bool {
			before, _, _ := strings.Cut(want, ", its answer comes to ")
			return strings.HasPrefix(got, before+", its answer is "+rejected) && before != want
		},
	},
}

// compare compares what became of everything under libvirt's rules and under vnetd's.
func (w *wires) compare(networks []replayed, exact bool, all []*sending, want, got []string) {
	w.Helper()
	reasons, faults := make([]int, len(onPurpose)), 0
	for i, s := range all {
		if want[i] == got[i] {
			continue
		}
		why := slices.IndexFunc(onPurpose, func(p struct {
			why  string
			fits func(to *replayed, want, got string) bool
		},
		) bool {
			return !exact && p.fits(routed(networks, s.dest), want[i], got[i])
		})
		if why >= 0 {
			reasons[why]++
		} else if faults++; faults <= 20 {
			w.Errorf("%s: by libvirt's rules %s, by vnetd's %s", s.what, want[i], got[i])
		}
	}
	if faults > 0 {
		w.Errorf("exact rules %v: %d of %d packets fare otherwise", exact, faults, len(all))
	}
	for i, n := range reasons {
		w.Logf("exact rules %v: %d of %d packets fare otherwise, since %s", exact, n, len(all), onPurpose[i].why)
		if n == 0 != exact {
			w.Errorf("none fares otherwise since %s", onPurpose[i].why)
		}
	}
}

// routed is the network that has an address and into which connections may be opened.
func routed(networks []replayed, a netip.Addr) *replayed {
	family := firewall.IPv6
	if a.Is4() {
		family = firewall.IPv4
	}
	for i := range networks {
		n := &networks[i]
		if !n.Closed(family) && slices.ContainsFunc(n.Subnets, func(s netip.Prefix) bool { return s.Masked().Contains(a) }) {
			return n
		}
	}
	return nil
}

// Packets fare under vnetd's rules for nftables as under libvirt's, of which the commands are
// replayed, with the networks of libvirt's own tests: one by one, of every kind, from
// everybody to everybody, and their answers.
func TestReplayOfLibvirtsTests(t *testing.T) {
	tests, err := libvirtcorpus.Dir(t.Context()) // may download: from a namespace it could not
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("without libvirt's test files: %v", err)
	}
	if err != nil {
		t.Fatalf("libvirt's test files are needed: %v", err)
	}
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, writer: byNFTables, log: new(logBuffer)}
		base, networks := libvirtsNetworks(t, tests)
		w := newWires(h)
		w.wire(networks)
		var ours []firewall.Network
		for _, n := range networks {
			base += n.commands
			ours = append(ours, n.Network)
		}
		all, want := w.fatesUnder(networks, func() {
			cmd := exec.Command("nft", "-f", "-")
			cmd.Stdin = strings.NewReader(base)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("libvirt's commands: %v: %s", err, out)
			}
		})
		for _, exact := range []bool{true, false} {
			_, got := w.fatesUnder(networks, func() { h.set(h.firewall(exact), ours...) })
			w.compare(networks, exact, all, want, got)
		}
	})
}
