package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// How many forwards there are, how many of the last are timed, and the ports of the host:
// as many after the first lead to the same port of the guest, at which it answers.
const (
	manyForwards   = 1000
	timedForwards  = 20
	firstForward   = 20_000
	forwardedGuest = "192.168.100.2"
	forwardedPort  = 4000
)

// forwardedNetwork is the network of the forwards.
const forwardedNetwork = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>forwards</name>
  <forward mode='nat'/>
  <bridge name='` + bridge + `' stp='off' delay='0'/>
  <ip address='192.168.100.1' netmask='255.255.255.0'/>
%s</network>
`

// forwardingSubject is a way to have ports of the host lead to a guest.
type forwardingSubject struct {
	name string
	// start has a number of ports lead there. What it returns adds one, and tells what
	// memory is taken, in KiB.
	start func(b *bench, dir string, count int) (add func(port int) error, memory func() int)
}

// forwardsBench prints what it costs to add a forward to many, and what passes by them.
func forwardsBench(b *bench) {
	all := []forwardingSubject{
		{"vnetd, nftables", forwardsOfVnetd("nftables")},
		{"vnetd, iptables", forwardsOfVnetd("iptables")},
		{"plain rules of iptables", plainForwards},
	}
	t := new(table)
	t.add("by", "forwards", "one more", "memory", "port", "connections/s", "round trips/s", "throughput")
	for _, s := range all {
		for _, count := range []int{1, manyForwards} {
			b.play(func(b *bench) { forwarded(b, t, s, count) })
		}
	}
	b.printf("%s", t)
	b.printf("  one more: the median of %d that are added, with vnetd by a call on the bus until it is in force, in the definition and on disk; with\n", timedForwards)
	b.printf("  plain rules by iptables executed for each of its %d rules; memory: of vnetd alone (PSS). From the LAN to a guest, through veth\n", len(plainRules(0)))
	b.printf("  devices, as in firewall; the port is the first or the last in the order in which rules are asked\n")
}

// forwarded measures one subject.
func forwarded(b *bench, t *table, s forwardingSubject, count int) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	add, memory := s.start(b, dir, count)
	guest := nstest.Guest(b, bridge, "guest", guardCard.String())
	guest.IP("addr add " + forwardedGuest + "/24 dev " + guestLink)
	guest.IP("route add default via 192.168.100.1")
	l := listenIn(b, guest)
	var serving sync.WaitGroup
	serving.Go(func() { answer(l) })
	defer serving.Wait()
	defer func() { _ = l.Close() }()
	used := "-"
	if kib := memory(); kib > 0 {
		used = fmt.Sprintf("%.1f MiB", float64(kib)/1024)
	}
	var took []time.Duration
	for n := range timedForwards {
		begin := time.Now()
		if err := add(firstForward + count + n); err != nil {
			b.Fatalf("adding a forward: %w", err)
		}
		took = append(took, time.Since(begin))
	}
	for _, port := range []struct {
		what string
		at   int
	}{{"oldest", firstForward}, {"newest", firstForward + count + timedForwards - 1}} {
		got := loadFrom(b, b.lab.LAN, net.JoinHostPort(nstest.Uplink, strconv.Itoa(port.at)))
		t.add(s.name, strconv.Itoa(count), millis(quantile(took, 0.5)), used, port.what,
			strconv.Itoa(int(got.Connections)), strconv.Itoa(int(got.RoundTrips)), fmt.Sprintf("%.1f Gbit/s", got.Bytes*8/1e9))
	}
}

// listenIn listens in the guest where forwards lead.
func listenIn(b *bench, guest *nstest.NS) (l net.Listener) {
	err := guest.Do(func() (err error) {
		l, err = net.Listen("tcp4", net.JoinHostPort(forwardedGuest, strconv.Itoa(forwardedPort)))
		return err
	})
	if err != nil {
		b.Fatalf("listening in the guest: %w", err)
	}
	return l
}

// loadFrom runs the program that loads the network in a namespace against an address.
func loadFrom(b *bench, ns *nstest.NS, address string) (got traffic) {
	out, err := ns.Command(b.Context(), b.self(trafficProgram), address).Output()
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

// forwardsOfVnetd is vnetd with a backend of its firewall.
func forwardsOfVnetd(backend string) func(b *bench, dir string, count int) (func(int) error, func() int) {
	return func(b *bench, dir string, count int) (func(int) error, func() int) {
		flushRules(b)
		b.vnetd(dir, fmt.Sprintf("firewall_backend = %q", backend))
		xml := filepath.Join(dir, "forwards.xml")
		var elements strings.Builder
		for n := range count {
			fmt.Fprintf(&elements, "  <vnetd:forward proto='tcp' port='%d' to='%s' to-port='%d'/>\n", firstForward+n, forwardedGuest, forwardedPort)
		}
		b.write(xml, fmt.Sprintf(forwardedNetwork, elements.String()))
		b.vnetctl("define", xml)
		b.vnetctl("start", "forwards")
		conn, err := client.Dial(b.Context())
		if err != nil {
			b.Fatalf("dialling the bus: %w", err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		network := conn.Network("forwards")
		add := func(port int) error {
			_, err := network.AddForward(b.Context(), api.ForwardOptions{Ports: strconv.Itoa(port), To: forwardedGuest, ToPort: forwardedPort})
			return err
		}
		return add, func() int {
			u, err := usageOf("vnetd")
			if err != nil {
				b.Fatalf("measuring vnetd: %w", err)
			}
			return u.pss
		}
	}
}

// plainRules are those that lead a port of the host to the guest, from outside and from the
// host, as people write them.
func plainRules(port int) [][]string {
	to := net.JoinHostPort(forwardedGuest, strconv.Itoa(forwardedPort))
	lead := fmt.Sprintf("-p tcp -m addrtype --dst-type LOCAL -m tcp --dport %d -j DNAT --to-destination %s", port, to)
	accept := fmt.Sprintf("-d %s/32 -o %s -p tcp -m tcp --dport %d -m conntrack --ctstate DNAT --ctorigdstport %d -j ACCEPT", forwardedGuest, bridge, forwardedPort, port)
	return [][]string{
		{"-t", "nat", "-A", "PREROUTING", lead}, {"-t", "nat", "-A", "OUTPUT", lead}, {"-t", "filter", "-A", "FORWARD", accept},
	}
}

// plainForwards are rules of iptables, without anything that would follow or repair them.
func plainForwards(b *bench, _ string, count int) (func(int) error, func() int) {
	flushRules(b)
	b.Cleanup(func() { flushRules(b) })
	nstest.IP(b, "link add "+bridge+" address 52:54:00:00:00:01 type bridge")
	b.Cleanup(func() { nstest.IP(b, "link del "+bridge) })
	nstest.IP(b, "addr add "+netip.MustParsePrefix("192.168.100.1/24").String()+" dev "+bridge)
	nstest.IP(b, "link set "+bridge+" up")
	nstest.Exec(b, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	texts := map[string]*strings.Builder{"nat": new(strings.Builder), "filter": new(strings.Builder)}
	for n := range count {
		for _, r := range plainRules(firstForward + n) {
			fmt.Fprintln(texts[r[1]], r[2], r[3], r[4])
		}
	}
	for name, rules := range texts {
		cmd := exec.CommandContext(b.Context(), "iptables-restore", "--noflush")
		cmd.Stdin = strings.NewReader("*" + name + "\n" + rules.String() + "COMMIT\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("iptables-restore: %w: %s", err, out)
		}
	}
	add := func(port int) error {
		for _, r := range plainRules(port) {
			args := append([]string{"-w"}, append(r[:4:4], strings.Fields(r[4])...)...)
			if out, err := exec.CommandContext(b.Context(), "iptables", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("iptables %v: %w: %s", args, err, out)
			}
		}
		return nil
	}
	return add, func() int { return 0 }
}
