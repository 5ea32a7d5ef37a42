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

// The load: so many connections, some at a time, then one stream for so long.
const (
	trafficConnections = 10_000
	trafficWorkers     = 4
	trafficTime        = 2 * time.Second
)

// traffic is what went through.
type traffic struct {
	Connections float64 // opened and closed per second
	Bytes       float64 // per second
}

// rulesPassed prints what a guest gets through to the LAN beside other networks,
// whose rules stand ahead of its own.
func rulesPassed(b *bench) {
	nstest.IP(b, "link add "+bridge+" type bridge")
	nstest.IP(b, "link set "+bridge+" up")
	b.Cleanup(func() { nstest.IP(b, "link del "+bridge) })
	guest := nstest.Guest(b, bridge, "guest", "")
	subnet := numbered(0, firewall.ModeNAT).Subnets[0]
	nstest.IP(b, "addr add "+subnet.String()+" dev "+bridge)
	guest.IP("addr add " + manyGuest + " dev " + guestLink)
	guest.IP("route add default via " + subnet.Addr().String())
	b.lab.LAN.IP("route replace " + subnet.Masked().String() + " via " + nstest.Uplink)
	nstest.Exec(b, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	t := new(table)
	t.add("mode", "rules", "networks", "connections/s", "throughput")
	for _, c := range []struct {
		mode  firewall.Mode
		exact bool
		name  string
	}{
		{firewall.ModeNAT, true, "libvirt's, and vnetd's"},
		{firewall.ModeRoute, true, "libvirt's"},
		{firewall.ModeRoute, false, "vnetd's"},
	} {
		for _, networks := range []int{1, someRules} {
			flushRules(b)
			fillRules(b, iptables.Config{LibvirtExactRules: c.exact}, c.mode, networks)
			got := loadLAN(b, guest)
			t.add(string(c.mode), c.name, strconv.Itoa(networks), strconv.Itoa(int(got.Connections)), fmt.Sprintf("%.1f Gbit/s", got.Bytes*8/1e9))
		}
	}
	flushRules(b)
	b.printf("\n%s", t)
	b.printf("  guest to LAN, through veth devices: %d TCP connections, %d at a time, then one stream for %v\n",
		trafficConnections, trafficWorkers, trafficTime)
	b.printf("  the guest's network is the oldest, so the rules of all others are asked first\n")
}

// loadLAN runs the program in the guest against a server in the LAN.
func loadLAN(b *bench, guest *nstest.NS) traffic {
	var l net.Listener
	if err := b.lab.LAN.Do(func() (err error) { l, err = net.Listen("tcp4", nstest.LANHost+":0"); return err }); err != nil {
		b.Fatalf("listening in the LAN: %w", err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { discard(l) })
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

// discard takes what comes over connections until l is closed.
func discard(l net.Listener) {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			_, _ = io.Copy(io.Discard, conn)
			_ = conn.Close()
		})
	}
}

// loadNetwork is the program. It returns the exit code.
func loadNetwork(args []string) int {
	if len(args) != 1 {
		return 2
	}
	var got traffic
	var err error
	if got.Connections, err = connectionRate(args[0]); err == nil {
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
