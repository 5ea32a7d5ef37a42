package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// portNetworkXML is where the ports are; STP is off, as on a bridge that ip(8)
// makes, so that nobody makes guests wait.
const portNetworkXML = `<network>
  <name>ports</name>
  <bridge name='virbr0' stp='off' delay='0'/>
  <ip address='192.168.100.1' netmask='255.255.252.0'>
    <dhcp><range start='192.168.100.2' end='192.168.103.254'/></dhcp>
  </ip>
</network>
`

// How many ports there are at a time, less than the kernel gives one bridge
// (BR_MAX_PORTS is 1024), and how many of each kind are timed.
const (
	manyPorts  = 1000
	timedPorts = 100
	fewPorts   = 20 // that still fit on the bridge beside manyPorts
)

// metricsAddress is where vnetd tells how many goroutines it has.
const metricsAddress = "127.0.0.1:9753"

// bridgeHelper is QEMU's own.
const bridgeHelper = "/usr/lib/qemu/qemu-bridge-helper"

// ports times requests of ports, one after the other and all at once, beside what
// launchers do by themselves.
func ports(b *bench) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	b.vnetd(dir, "[metrics]", fmt.Sprintf("listen = %q", metricsAddress))
	xml := filepath.Join(dir, "ports.xml")
	b.write(xml, portNetworkXML)
	b.write("/etc/qemu/bridge.conf", "allow all\n")
	b.vnetctl("define", xml)
	b.vnetctl("start", "ports")
	conns := dialMany(b)
	conn := conns[0]
	t := new(table)
	t.add("port", "p50", "p99", "CPU, each")
	row := func(label string, d []time.Duration, cpu string) {
		t.add(label, millis(quantile(d, 0.5)), millis(quantile(d, 0.99)), cpu)
	}
	request := func(n int) (func() error, error) {
		p, err := conns[n%len(conns)].RequestPort(b.Context(), "ports", client.PortOptions{VnetHdr: true})
		if err != nil {
			return nil, err
		}
		return p.Close, nil
	}
	before := leastResourcesOf(b)
	var end []func() error
	for _, part := range []struct {
		label string
		count int
	}{
		{fmt.Sprintf("vnetd, the first %d", timedPorts), timedPorts},
		{"", manyPorts - 2*timedPorts},
		{fmt.Sprintf("vnetd, the last %d of %d", timedPorts, manyPorts), timedPorts},
	} {
		cpu := server{comm: "vnetd"}.usage(b).cpu
		took, more := timePorts(b, part.count, request)
		end = append(end, more...)
		if part.label != "" {
			row(part.label, took, millis((server{comm: "vnetd"}.usage(b).cpu-cpu)/time.Duration(part.count)))
		}
	}
	hand, endHand := timePorts(b, fewPorts, plugByHand)
	row(fmt.Sprintf("ip tuntap add, ip link set master up, beside those %d", manyPorts), hand, "-")
	release(b, conn, append(end, endHand...))
	for _, other := range []struct {
		label  string
		launch func(int) (func() error, error)
	}{
		{"ip tuntap add, ip link set master up", plugByHand},
		{"qemu-bridge-helper", plugByHelper},
	} {
		d, end := timePorts(b, timedPorts, other.launch)
		row(other.label, d, "-")
		release(b, conn, end)
	}
	all, took := atOncePorts(b, manyPorts, request)
	b.printf("%s", t)
	b.printf("  %d at once: %s in all\n", manyPorts, millis(took))
	release(b, conn, all)
	left := leastResourcesOf(b)
	b.printf("  left of them: %d descriptors, %d goroutines, %d objects on the bus, %d ports, %d TAP devices\n",
		left.files-before.files, left.goroutines-before.goroutines, left.objects-before.objects, countPorts(b, conn), countTAPs(b))
}

// dialMany makes several connections to the bus, which lets one of them wait for
// 128 answers at most.
func dialMany(b *bench) []*client.Client {
	var conns []*client.Client
	for range manyPorts / 100 {
		conn, err := client.Dial(b.Context())
		if err != nil {
			b.Fatalf("dialling the bus: %w", err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		conns = append(conns, conn)
	}
	return conns
}

// timePorts makes ports one after the other. What it returns ends them.
func timePorts(b *bench, count int, launch func(n int) (func() error, error)) ([]time.Duration, []func() error) {
	var took []time.Duration
	var end []func() error
	for n := range count {
		begin := time.Now()
		stop, err := launch(n)
		took = append(took, time.Since(begin))
		if err != nil {
			b.Fatalf("making port %d: %w", n, err)
		}
		end = append(end, stop)
	}
	return took, end
}

// atOncePorts makes ports all together, and tells how long that took.
func atOncePorts(b *bench, count int, launch func(n int) (func() error, error)) ([]func() error, time.Duration) {
	end := make([]func() error, count)
	errs := make([]error, count)
	begin := time.Now()
	atOnce(count, func(n int) { end[n], errs[n] = launch(n) })
	took := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		b.Fatalf("making %d ports at once: %w", count, err)
	}
	return end, took
}

// release ends ports and waits until vnetd knows of none.
func release(b *bench, conn *client.Client, end []func() error) {
	var closing sync.WaitGroup
	for _, stop := range end {
		closing.Go(func() { _ = stop() })
	}
	closing.Wait()
	for countPorts(b, conn) > 0 || countTAPs(b) > 0 {
		time.Sleep(100 * time.Millisecond)
	}
}

func countPorts(b *bench, conn *client.Client) int {
	all, err := conn.Ports(b.Context())
	if err != nil {
		b.Fatalf("listing ports: %w", err)
	}
	return len(all)
}

// countTAPs counts the TAP devices of the namespace.
func countTAPs(b *bench) int {
	links, err := net.Interfaces()
	if err != nil {
		b.Fatalf("listing links: %w", err)
	}
	n := 0
	for _, l := range links {
		if _, err := os.Stat("/sys/class/net/" + l.Name + "/tun_flags"); err == nil {
			n++
		}
	}
	return n
}

// filesOf counts the open files of the process of that name.
func filesOf(b *bench, comm string) int {
	out, err := exec.CommandContext(b.Context(), "pgrep", "-x", comm).Output()
	if err != nil {
		b.Fatalf("looking for %s: %w", comm, err)
	}
	fds, err := os.ReadDir("/proc/" + string(out[:len(out)-1]) + "/fd")
	if err != nil {
		b.Fatalf("counting files: %w", err)
	}
	return len(fds)
}

// resources is what vnetd has that could leak.
type resources struct{ files, goroutines, objects int }

// resourcesOf counts what vnetd has now.
func resourcesOf(b *bench) resources {
	h := resources{files: filesOf(b, "vnetd")}
	var err error
	for line := range strings.Lines(scrape(b)) {
		if count, ok := strings.CutPrefix(line, "go_goroutines "); ok {
			h.goroutines, err = strconv.Atoi(strings.TrimSpace(count))
		}
	}
	if err != nil || h.goroutines == 0 {
		b.Fatalf("the metrics tell no number of goroutines: %v", err)
	}
	objects, err := exec.CommandContext(b.Context(), "busctl", "tree", "--list", "org.vnetd1").Output()
	if err != nil {
		b.Fatalf("listing the objects on the bus: %w", err)
	}
	h.objects = strings.Count(string(objects), "\n")
	return h
}

// scrape reads the daemon's metrics.
func scrape(b *bench) string {
	metrics, err := exec.CommandContext(b.Context(), "curl", "-sSf", "http://"+metricsAddress+"/metrics").Output()
	if err != nil {
		b.Fatalf("reading the metrics: %w", err)
	}
	return string(metrics)
}

// leastResourcesOf is the least of it within some seconds: what vnetd is at just then, such as a
// program that it executes, has descriptors as well.
func leastResourcesOf(b *bench) resources {
	least := resourcesOf(b)
	for range 10 {
		time.Sleep(300 * time.Millisecond)
		now := resourcesOf(b)
		least = resources{min(least.files, now.files), min(least.goroutines, now.goroutines), min(least.objects, now.objects)}
	}
	return least
}

// plugByHand makes a device with ip(8), as scripts do.
func plugByHand(n int) (func() error, error) {
	name := fmt.Sprintf("hand%d", n)
	err := errors.Join(
		exec.Command("ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr").Run(),
		exec.Command("ip", "link", "set", name, "master", "virbr0", "up").Run(),
	)
	return func() error { return exec.Command("ip", "link", "del", name).Run() }, err
}

// plugByHelper has QEMU's helper make a device, and takes its descriptor as QEMU
// does.
func plugByHelper(int) (func() error, error) {
	tap, err := nstest.PlugAsQEMU(context.Background(), bridgeHelper, "--use-vnet", "--br=virbr0")
	if err != nil {
		return nil, err
	}
	return tap.Close, nil
}
