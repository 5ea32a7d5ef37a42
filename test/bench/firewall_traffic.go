package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// trafficProgram is the name under which the bench is a program that loads the
// network: its argument is a TCP address to which it opens connections, then sends
// as much as it can.
const trafficProgram = "traffic"

// The load: so many connections, some at a time; then for so long each, questions with
// their answers and one stream, and bursts of small packets. Of each the best of some
// rounds counts, which come in turn, so that what else the machine does falls on all alike.
const (
	trafficConnections = 8_000
	trafficWorkers     = 4
	trafficTime        = time.Second
	trafficRounds      = 3
	packetRounds       = 5
)

// traffic is what went through, per second.
type traffic struct {
	Connections float64 // opened and closed
	RoundTrips  float64 // of one byte by TCP
	Bytes       float64
}

// better takes over what is more.
func (t *traffic) better(o traffic) {
	t.Connections, t.RoundTrips = max(t.Connections, o.Connections), max(t.RoundTrips, o.RoundTrips)
	t.Bytes = max(t.Bytes, o.Bytes)
}

// A ruleset is rules of so many networks.
type rulesetOf struct {
	name     string
	networks int
	write    func(b *bench, networks int)
}

// rulesPassed prints what a guest gets through to the LAN beside other networks,
// whose rules stand ahead of its own.
func rulesPassed(b *bench) {
	guest := guestToLAN(b)
	var all []rulesetOf
	for _, networks := range []int{1, someRules, manyRules} {
		all = append(all,
			rulesetOf{"vnetd, nftables", networks, func(b *bench, n int) { fillRules(b, newTables(b), n) }},
			rulesetOf{"vnetd, iptables", networks, func(b *bench, n int) { fillRules(b, newFirewall(b, iptables.Config{}), n) }},
			rulesetOf{"libvirt, iptables", networks, func(b *bench, n int) { fillRules(b, newFirewall(b, iptables.Config{LibvirtExactRules: true}), n) }},
			rulesetOf{"libvirt, nftables", networks, fillLibvirtTables},
		)
	}
	all = append(all, rulesetOf{"one rule that translates", 0, fillMasquerade}, rulesetOf{"none", 0, func(*bench, int) {}})
	got, cost := make([]traffic, len(all)), make([]guardCost, len(all))
	for range trafficRounds {
		for i, r := range all {
			b.play(func(b *bench) {
				flushRules(b)
				r.write(b, r.networks)
				got[i].better(loadLAN(b, guest))
				for range packetRounds {
					cost[i].better(flood(b, guest))
				}
			})
		}
	}
	flushRules(b)
	t := new(table)
	t.add("rules", "networks", "connections/s", "round trips/s", "throughput", "CPU a packet")
	for i, r := range all {
		networks := strconv.Itoa(r.networks)
		if r.networks == 0 {
			networks = "-"
		}
		t.add(r.name, networks, strconv.Itoa(int(got[i].Connections)), strconv.Itoa(int(got[i].RoundTrips)),
			fmt.Sprintf("%.1f Gbit/s", got[i].Bytes*8/1e9), fmt.Sprintf("%d ns", cost[i].each.Nanoseconds()))
	}
	b.printf("\n%s", t)
	b.draw(curvesOf(t, "packet", "CPU time of a packet, ns, with so many networks", "networks", "CPU a packet", nil))
	b.printf("  guest of a NAT network to the LAN, through veth devices: %d TCP connections, %d at a time; questions of one byte\n", trafficConnections, trafficWorkers)
	b.printf("  and one stream, each for %v; bursts of %d small UDP packets of one flow; the best of %d rounds\n", trafficTime, flooderFrames, trafficRounds)
	b.printf("  the guest's network is the oldest, so the rules of all others are asked first\n")
}

// loadLAN runs the program in the guest against a server in the LAN.
func loadLAN(b *bench, guest *nstest.NS) traffic {
	var l net.Listener
	if err := b.lab.LAN.Do(func() (err error) { l, err = net.Listen("tcp4", nstest.LANHost+":0"); return err }); err != nil {
		b.Fatalf("listening in the LAN: %w", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { answer(l) })
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	cmd := guest.Command(b.Context(), b.self(trafficProgram), l.Addr().String())
	out, err := cmd.Output()
	var got traffic
	if err == nil {
		err = json.Unmarshal(out, &got)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		b.Fatalf("loading the network: %w", err)
	}
	return got
}

// answer takes what comes over connections until l is closed, and answers those whose
// first byte asks for it.
func answer(l net.Listener) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			defer func() { _ = conn.Close() }()
			first := make([]byte, 1)
			for {
				if _, err := conn.Read(first); err != nil {
					return
				}
				if first[0] != question {
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				if _, err := conn.Write(first); err != nil {
					return
				}
			}
		})
	}
}

// question is a byte that is answered with itself.
const question = '?'

// loadNetwork is the program. It returns the exit code.
func loadNetwork(args []string) int {
	if len(args) != 1 {
		return 2
	}
	var got traffic
	var err error
	if got.Connections, err = connectionRate(args[0]); err == nil {
		got.RoundTrips, err = roundTripRate(args[0])
	}
	if err == nil {
		got.Bytes, err = byteRate(args[0])
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(got)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// connectionRate opens and closes connections.
func connectionRate(address string) (float64, error) {
	errs := make([]error, trafficWorkers)
	var running sync.WaitGroup
	begin := time.Now()
	for worker := range trafficWorkers {
		running.Go(func() {
			for n := 0; n < trafficConnections/trafficWorkers && errs[worker] == nil; n++ {
				var conn net.Conn
				if conn, errs[worker] = net.Dial("tcp4", address); errs[worker] != nil {
					return
				}
				// Closed without ceremony a connection leaves nothing behind.
				errs[worker] = errors.Join(conn.(*net.TCPConn).SetLinger(0), conn.Close())
			}
		})
	}
	running.Wait()
	return trafficConnections / time.Since(begin).Seconds(), errors.Join(errs...)
}

// byteRate sends as much as it can.
func byteRate(address string) (float64, error) {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	block := make([]byte, 1<<17)
	sent := 0
	begin := time.Now()
	for time.Since(begin) < trafficTime {
		n, err := conn.Write(block)
		if err != nil {
			return 0, err
		}
		sent += n
	}
	return float64(sent) / time.Since(begin).Seconds(), nil
}

// roundTripRate asks and waits for the answer, again and again.
func roundTripRate(address string) (float64, error) {
	conn, err := net.Dial("tcp4", address)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	b, n := []byte{question}, 0
	begin := time.Now()
	for ; time.Since(begin) < trafficTime; n++ {
		if _, err := conn.Write(b); err != nil {
			return 0, err
		}
		if _, err := conn.Read(b); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// fillMasquerade writes what a NAT network needs at least.
func fillMasquerade(b *bench, _ int) {
	nftScript(b, "table ip nat {\n chain postrouting {\n type nat hook postrouting priority srcnat;\n"+
		fmt.Sprintf(" ip saddr %s masquerade\n }\n}\n", numbered(0, firewall.ModeNAT).Subnets[0].Masked()))
}

// fillLibvirtTables writes the rules of libvirt's nftables backend, as of 11.3. Bridges
// are matched by index there; those of the other networks are none of any link.
func fillLibvirtTables(b *bench, networks int) {
	var in, out, cross, nat strings.Builder
	for n := networks - 1; n >= 0; n-- { // each is inserted at the head
		at := strconv.Itoa(100_000 + n)
		if n == 0 {
			at = strconv.Quote(bridge)
		}
		net := numbered(n, firewall.ModeNAT).Subnets[0].Masked().String()
		fmt.Fprintf(&out, " ip saddr %s iif %s counter accept\n iif %s counter reject\n", net, at, at)
		fmt.Fprintf(&in, " oif %s ip daddr %s ct state established,related counter accept\n oif %s counter reject\n", at, net, at)
		fmt.Fprintf(&cross, " iif %s oif %s counter accept\n", at, at)
		fmt.Fprintf(&nat, " ip saddr %[1]s ip daddr 224.0.0.0/24 counter return\n ip saddr %[1]s ip daddr 255.255.255.255 counter return\n"+
			" meta l4proto tcp ip saddr %[1]s ip daddr != %[1]s counter masquerade to :1024-65535\n"+
			" meta l4proto udp ip saddr %[1]s ip daddr != %[1]s counter masquerade to :1024-65535\n"+
			" ip saddr %[1]s ip daddr != %[1]s counter masquerade\n", net)
	}
	nftScript(b, "table ip libvirt_network {\n"+
		" chain guest_output {\n"+out.String()+" }\n chain guest_input {\n"+in.String()+" }\n chain guest_cross {\n"+cross.String()+" }\n"+
		" chain forward {\n type filter hook forward priority filter;\n counter jump guest_cross\n counter jump guest_input\n counter jump guest_output\n }\n"+
		" chain guest_nat {\n type nat hook postrouting priority srcnat;\n"+nat.String()+" }\n}\n")
}

// nftScript has nft read a text.
func nftScript(b *bench, text string) {
	cmd := exec.CommandContext(b.Context(), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("nft: %w: %s", err, out)
	}
}
