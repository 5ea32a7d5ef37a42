package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// scaleSizes are how many networks there are on one host, each with portsEach ports.
var scaleSizes = []int{250, 1000, 2000}

const portsEach = 5

// scaleRow is one row: each is printed as soon as it is known.
const scaleRow = "  %-9s%7s%12s%10s%10s%11s%10s%10s%10s%10s%10s%9s%9s%11s%11s\n"

// scale times what grows with networks and ports: whether one more costs more.
func scale(b *bench) {
	b.printf(scaleRow, "networks", "ports", "start, each", "own CPU", "ip, each", "port, each", "own CPU", "ip, each", "restart", "own CPU", "list", "ports", "scrape", "PSS", "--cleanup")
	for _, count := range scaleSizes {
		b.play(func(b *bench) { b.printf(scaleRow, measureScale(b, count)...) })
	}
	b.printf("  start, port: %d at a time over %d connections to the bus; ip: ip -batch makes a bridge that is up with an address, and a TAP device on it\n", clientsAtOnce, manyPorts/100)
	b.printf("  own CPU: the daemon's outside of the kernel, for each; of the restart, all\n")
	b.printf("  restart: from SIGTERM until all networks are listed as active; list, ports: Networks and Ports on the bus\n")
}

// measureScale returns a row of the table.
func measureScale(b *bench, count int) []any {
	bridges, taps := kernelScale(b, count)
	h := openScale(b, count)
	began := h.usage().user
	started := timeOf(func() { pooled(b, count, h.startOne) })
	up := h.usage().user
	open := make([]*client.OpenPort, count*portsEach)
	b.Cleanup(func() { closePorts(open) })
	plugged := timeOf(func() { pooled(b, len(open), func(n int) error { return h.plugOne(open, n) }) })
	full := h.usage().user
	restart := timeUntilActive(b, h, count, func() { h.halt(); h.launch() })
	networks, ports := time.Duration(count), time.Duration(len(open))
	row := []any{
		strconv.Itoa(count), strconv.Itoa(len(open)),
		millis(started / networks), millis((up - began) / networks), millis(bridges / networks),
		millis(plugged / ports), millis((full - up) / ports), millis(taps / ports),
		millis(restart), seconds(h.usage().user),
		millis(timeOf(func() { countActive(b, h) })),
		millis(timeOf(func() { countPorts(b, h.conns[0]) })),
		millis(timeOf(func() { scrape(b) })),
		h.usage().memory(),
	}
	return append(row, millis(timeOf(func() { stopByCleanup(b, h, count) })))
}

// timeOf is how long do takes.
func timeOf(do func()) time.Duration {
	begin := time.Now()
	do()
	return time.Since(begin)
}

// openScale starts vnetd with so many definitions.
func openScale(b *bench, count int) *vnetdHost {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	h := openVnetd(b, dir).(*vnetdHost)
	b.write("/etc/vnetd/vnetd.toml", fmt.Sprintf("state_dir = %q\nnetworks_dir = %q\n[metrics]\nlisten = %q\n", stateDir(dir), networksDir(dir), metricsAddress))
	for n := range count {
		b.write(filepath.Join(h.definitions(), fmt.Sprintf("net%d.xml", n)), fmt.Sprintf(manyXML, n, 100+n/256, n%256))
	}
	timeUntilActive(b, h, 0, h.launch)
	return h
}

// countActive lists the networks.
func countActive(b *bench, h host) {
	if _, err := h.active(); err != nil {
		b.Fatalf("listing networks: %w", err)
	}
}

// plugOne has the n-th port, which is open until ports is.
func (h *vnetdHost) plugOne(ports []*client.OpenPort, n int) (err error) {
	ports[n], err = h.conns[n%len(h.conns)].RequestPort(h.b.Context(), fmt.Sprintf("net%d", n/portsEach), client.PortOptions{VnetHdr: true})
	return err
}

// closePorts closes those that were opened.
func closePorts(ports []*client.OpenPort) {
	for _, p := range ports {
		if p != nil {
			_ = p.Close()
		}
	}
}

// pooled calls do for each number below count, clientsAtOnce at a time.
func pooled(b *bench, count int, do func(n int) error) {
	next := make(chan int, count)
	for n := range count {
		next <- n
	}
	close(next)
	var mu sync.Mutex
	var failed error
	var workers sync.WaitGroup
	for range clientsAtOnce {
		workers.Go(func() {
			for n := range next {
				if err := do(n); err != nil {
					mu.Lock()
					failed = fmt.Errorf("number %d: %w", n, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	workers.Wait()
	if failed != nil {
		b.Fatalf("%w", failed)
	}
}

// kernelScale times ip(8) as it makes so many bridges with ports, in a namespace of their
// own, and deletes them again some at a time: nobody else gets at any link meanwhile.
func kernelScale(b *bench, count int) (bridges, taps time.Duration) {
	ns := nstest.NewNS(b, "floor")
	var create, plug, remove strings.Builder
	for n := range count {
		group := 1 + n/8
		_, _ = fmt.Fprintf(&create, "link add virbr%d group %d type bridge\naddr add 10.%d.%d.1/24 dev virbr%[1]d\nlink set virbr%[1]d up\n", n, group, 100+n/256, n%256)
		for p := range portsEach {
			_, _ = fmt.Fprintf(&plug, "tuntap add tap%d mode tap vnet_hdr\nlink set tap%[1]d master virbr%d group %d up\n", n*portsEach+p, n, group)
		}
		if n%8 == 0 {
			_, _ = fmt.Fprintf(&remove, "link del group %d\n", group)
		}
	}
	batch := func(commands string) time.Duration {
		file := filepath.Join(b.dir, "batch")
		b.write(file, commands)
		return timeOf(func() { ns.Exec("ip", "-batch", file) })
	}
	bridges, taps = batch(create.String()), batch(plug.String())
	batch(remove.String())
	return bridges, taps
}
