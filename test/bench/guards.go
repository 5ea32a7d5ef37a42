package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// flooderProgram is the name under which the bench is a program that sends frames from
// the card of its argument, and prints how many nanoseconds each took.
const flooderProgram = "flooder"

// The load of guards: in each round so many bursts of so many small packets, of which the
// best of all rounds counts, and in the first rounds a stream each. The levels take turns,
// so that what else the machine does falls on all alike.
const (
	flooderFrames = 2_000
	flooderBursts = 10
	flooderRounds = 20
	streamRounds  = 2
)

// otherPorts is how many ports are guarded beside the one that is looked at.
const otherPorts = 999

// guardCard is the guest's.
var guardCard = firewall.MAC{0x52, 0x54, 0, 0, 0, 2}

// guardsPassed prints what a packet of a guest costs under guards, and what a guest gets
// through to the LAN.
func guardsPassed(b *bench) {
	nstest.IP(b, "link add "+bridge+" address 52:54:00:00:00:01 type bridge")
	nstest.IP(b, "link set "+bridge+" up")
	b.Cleanup(func() { nstest.IP(b, "link del "+bridge) })
	guest := nstest.Guest(b, bridge, "guest", guardCard.String())
	network := numbered(0, firewall.ModeNAT)
	nstest.IP(b, "addr add "+network.Subnets[0].String()+" dev "+bridge)
	guest.IP("addr add " + manyGuest + " dev " + guestLink)
	guest.IP("route add default via " + network.Subnets[0].Addr().String())
	b.lab.LAN.IP("route replace " + network.Subnets[0].Masked().String() + " via " + nstest.Uplink)
	nstest.Exec(b, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	t := new(table)
	t.add("guard", "ports", "CPU a packet", "throughput")
	for _, ports := range []int{1, otherPorts + 1} {
		if ports > 1 {
			others(b)
		}
		g := guarded(b, network.Subnets[0], ports)
		var best [firewall.GuardStrict + 1]guardCost
		for round := range flooderRounds {
			for level := range best {
				g.at(b, firewall.GuardLevel(level))
				best[level].better(flood(b, guest))
				if round < streamRounds {
					best[level].gigabits = max(best[level].gigabits, loadLAN(b, guest).Bytes*8/1e9)
				}
			}
		}
		if err := g.Purge(); err != nil {
			b.Fatalf("removing guards: %w", err)
		}
		_ = g.Close()
		for level, got := range best {
			t.add(firewall.GuardLevel(level).String(), strconv.Itoa(ports), fmt.Sprintf("%d ns", got.each.Nanoseconds()), fmt.Sprintf("%.1f Gbit/s", got.gigabits))
		}
	}
	b.printf("\n%s", t)
}

// guardCost is what was measured at one level: CPU time of a packet, and throughput.
type guardCost struct {
	each     time.Duration
	gigabits float64
}

// better keeps the least time.
func (c *guardCost) better(each time.Duration) {
	if c.each == 0 || each < c.each {
		c.each = each
	}
}

// guardBench is guards, of which the guest's changes its level.
type guardBench struct {
	*nft.Guards
	guest firewall.GuardedPort
}

// at has the guest's port guarded at a level.
func (g *guardBench) at(b *bench, level firewall.GuardLevel) {
	g.guest.Guard = firewall.GuardAt(level)
	if err := g.SetPort(g.guest); err != nil {
		b.Fatalf("guarding the guest's port: %w", err)
	}
}

// others makes devices for the other ports.
func others(b *bench) {
	var lines strings.Builder
	for i := range otherPorts {
		fmt.Fprintf(&lines, "link add port%d type veth peer name peer%d\nlink set port%d master %s\n", i, i, i, bridge)
	}
	cmd := exec.CommandContext(b.Context(), "ip", "-batch", "-")
	cmd.Stdin = strings.NewReader(lines.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("making %d devices: %w: %s", otherPorts, err, out)
	}
}

// guarded has so many ports guarded, the guest's among them.
func guarded(b *bench, subnet netip.Prefix, ports int) *guardBench {
	g := &guardBench{Guards: nft.NewGuards(slog.New(slog.DiscardHandler))}
	links, err := net.Interfaces() // once: by name, each is looked for among all
	if err != nil {
		b.Fatalf("listing devices: %w", err)
	}
	index := func(name string) int {
		i := slices.IndexFunc(links, func(l net.Interface) bool { return l.Name == name })
		if i < 0 {
			b.Fatalf("there is no device %s", name)
		}
		return links[i].Index
	}
	n := firewall.GuardedNetwork{
		Bridge: bridge, Index: index(bridge), MAC: firewall.MAC{0x52, 0x54, 0, 0, 0, 1},
		Gateway: []netip.Addr{subnet.Addr()}, Subnets: []netip.Prefix{subnet}, DHCP: true,
	}
	err = g.SetNetwork(n)
	for i := range ports {
		p := firewall.GuardedPort{Bridge: bridge, IfName: "v-guest", Guard: firewall.GuardAt(firewall.GuardGateway), MACs: []firewall.MAC{guardCard}, Bound: true}
		p.Addrs = []netip.Addr{netip.MustParsePrefix(manyGuest).Addr()}
		if i > 0 {
			p.IfName, p.Addrs = fmt.Sprintf("port%d", i-1), []netip.Addr{netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})}
			p.MACs = []firewall.MAC{{0x52, 0x54, 1, 0, byte(i >> 8), byte(i)}}
		}
		p.Index = index(p.IfName)
		if i == 0 {
			g.guest = p
		}
		if err == nil {
			err = g.SetPort(p)
		}
	}
	if err == nil {
		err = g.Release()
	}
	if err != nil {
		b.Fatalf("guarding %d ports: %w", ports, err)
	}
	return g
}

// flood is how much CPU time one packet of the guest takes, in its best burst.
func flood(b *bench, guest *nstest.NS) time.Duration {
	out, err := guest.Command(b.Context(), b.self(flooderProgram), guestLink, strings.TrimSuffix(manyGuest, "/24")).Output()
	var ns int64
	if err == nil {
		ns, err = strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	}
	if err != nil {
		b.Fatalf("sending packets: %w", err)
	}
	return time.Duration(ns)
}

// floodGateway is the program: it sends small UDP packets to the LAN from a source, and
// prints how many nanoseconds of its CPU time each took, to the LAN's card: all of the
// host's work is done before the call returns. What else the machine does adds less to
// that than to the time that passes.
func floodGateway(args []string) int {
	if len(args) != 2 {
		return 2
	}
	if err := flooder(os.Stdout, args[0], args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// flooder is floodGateway.
func flooder(w io.Writer, device, source string) error {
	card, err := net.InterfaceByName(device)
	if err != nil {
		return err
	}
	src, err := netip.ParseAddr(source)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	to := unix.SockaddrLinklayer{Ifindex: card.Index, Halen: 6}
	frame := append([]byte{0x52, 0x54, 0, 0, 0, 1}, card.HardwareAddr...)
	frame = append(frame, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0)
	frame = append(append(frame, src.AsSlice()...), 198, 51, 100, 9)
	binary.BigEndian.PutUint16(frame[24:], nstest.Checksum(frame[14:]))
	frame = append(frame, make([]byte, 26)...)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := int64(math.MaxInt64)
	for range flooderBursts {
		each, err := burst(fd, frame, &to)
		if err != nil {
			return err
		}
		best = min(best, each)
	}
	_, err = fmt.Fprintln(w, best)
	return err
}

// burst is how many nanoseconds of CPU time each frame of a burst takes.
func burst(fd int, frame []byte, to *unix.SockaddrLinklayer) (int64, error) {
	var began, ended unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &began); err != nil {
		return 0, err
	}
	for range flooderFrames {
		if err := unix.Sendto(fd, frame, 0, to); err != nil && err != unix.ENOBUFS {
			return 0, fmt.Errorf("sending a frame: %w", err)
		}
	}
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ended); err != nil {
		return 0, err
	}
	return (ended.Nano() - began.Nano()) / flooderFrames, nil
}
