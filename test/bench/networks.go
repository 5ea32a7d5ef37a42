package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// manyXML is the n-th of many NAT networks, as a file in libvirt's folder and in
// ours.
const manyXML = `<network>
  <name>net%[1]d</name>
  <uuid>00000000-0000-4000-8000-%012[1]x</uuid>
  <forward mode='nat'/>
  <bridge name='virbr%[1]d' stp='on' delay='0'/>
  <ip address='10.%[2]d.%[3]d.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='10.%[2]d.%[3]d.2' end='10.%[2]d.%[3]d.254'/>
    </dhcp>
  </ip>
</network>
`

// The guest on the first of them.
const (
	manyGuest   = "10.100.0.200/24"
	manyGateway = "10.100.0.1"
)

// lastNetworks is how many of the last networks are timed by themselves, to show
// whether one more costs more.
const lastNetworks = 10

// networksLimit is how long a daemon may take to have its networks active. It
// only ends runs that would hang.
const networksLimit = 5 * time.Minute

// clientsAtOnce is how many vnetctl run at the same time.
const clientsAtOnce = 16

// host is a daemon that runs networks and whose networks outlive it. The files
// in the folder of its definitions are written before it is launched.
type host interface {
	definitions() string
	// launch starts the daemon; it may not serve yet when launch returns.
	launch()
	// halt ends the daemon as its service manager does, and waits.
	halt()
	// start starts networks one after the other over one connection.
	start(first, count int) error
	// active counts the active networks.
	active() (int, error)
	// usage is that of the daemon and of all its processes that still run.
	usage() usage
}

// manager is a kind of host to be measured.
type manager struct {
	name  string
	sizes []int
	// open makes a host on which nothing of it was active. When b ends, nothing
	// is left of it.
	open func(b *bench, dir string) host
	// atOnce starts networks as fast as the clients can; nil if nobody does.
	atOnce func(b *bench, count int) time.Duration
}

// managers are vnetd and libvirtd. At more than 128 networks libvirtd's dnsmasq
// processes run out of inotify instances.
func managers() []manager {
	return []manager{
		{"vnetd", []int{1, 10, 50, 100, 200, 500}, openVnetd, startAtOnce},
		{"libvirtd", []int{1, 10, 50, 100}, openLibvirtd, nil},
	}
}

// networks times many networks: their start, in three ways, and a restart of the
// daemon that runs them.
func networks(b *bench) {
	t := new(table)
	row := func(cells ...any) {
		b.printf(networksRow, cells...)
		t.addAny(cells...)
	}
	row("server", "networks", "in turn", "last, each", "CPU", "at once", "autostart", "restart", "flows", "lost", "gap", "slowest", "PSS", "processes")
	for _, m := range managers() {
		for _, count := range m.sizes {
			row(measureNetworks(b, m, count)...)
		}
	}
	b.draw(curvesOf(t, "networks", "time to start one more network, ms, beside so many", "networks", "last, each", nil))
	b.draw(curvesOf(t, "networks-memory", "memory with so many networks, MiB", "networks", "PSS", nil))
	b.printf("  in turn: net-start over one connection; at once: vnetctl start, %d at a time\n", clientsAtOnce)
	b.printf("  last, each: one of the last %d; restart: from SIGTERM until the client lists all as active\n", lastNetworks)
	b.printf("  flows: new TCP connections of a guest to the LAN during the restart, one every %v\n", flowEvery)
}

// networksRow is one row: each is printed as soon as it is known.
const networksRow = "  %-9s%9s%10s%11s%9s%9s%10s%10s%7s%6s%9s%9s%11s%10s\n"

// measureNetworks returns a row of the table.
func measureNetworks(b *bench, m manager, count int) []any {
	atOnce := "-"
	if m.atOnce != nil {
		onHost(b, m, count, false, func(b *bench, h host) { atOnce = millis(m.atOnce(b, count)) })
	}
	var autostart time.Duration
	onHost(b, m, count, true, func(b *bench, h host) {
		autostart = timeUntilActive(b, h, count, h.launch)
	})
	row := []any{m.name, strconv.Itoa(count)}
	onHost(b, m, count, false, func(b *bench, h host) {
		total, each, cpu := timeInTurn(b, h, count)
		restart, seen := timeRestart(b, h, count)
		up := h.usage()
		row = append(row, millis(total), millis(each), seconds(cpu), atOnce, millis(autostart), millis(restart))
		row = append(row, seen.cells()...)
		row = append(row, up.memory(), strconv.Itoa(up.processes))
	})
	return row
}

// onHost calls body with a fresh host that has count definitions. With autostart
// body launches the daemon; otherwise it serves.
func onHost(b *bench, m manager, count int, autostart bool, body func(b *bench, h host)) {
	b.play(func(b *bench) {
		dir, err := os.MkdirTemp(b.dir, "state-")
		if err != nil {
			b.Fatalf("making a folder: %w", err)
		}
		h := m.open(b, dir)
		for n := range count {
			file := fmt.Sprintf("net%d.xml", n)
			path := filepath.Join(h.definitions(), file)
			b.write(path, fmt.Sprintf(manyXML, n, 100+n/256, n%256))
			if autostart {
				b.link(path, filepath.Join(h.definitions(), "autostart", file))
			}
		}
		if !autostart {
			timeUntilActive(b, h, 0, h.launch)
		}
		body(b, h)
	})
}

// link makes a symbolic link, and its folder.
func (b *bench) link(target, path string) {
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(target, path)); err != nil {
		b.Fatalf("making a link: %w", err)
	}
}

// timeUntilActive is how long it takes from before do until count networks are
// active.
func timeUntilActive(b *bench, h host, count int, do func()) time.Duration {
	begin := time.Now()
	do()
	nstest.Eventually(b, networksLimit, "the networks are active", func() error {
		n, err := h.active()
		if err == nil && n != count {
			err = fmt.Errorf("%d of %d are", n, count)
		}
		return err
	})
	return time.Since(begin)
}

// timeInTurn starts the networks one after the other. It returns the time for
// all, for one of the last, and the CPU time of all.
func timeInTurn(b *bench, h host, count int) (total, each, cpu time.Duration) {
	before := h.usage()
	last := min(count, lastNetworks)
	begin := time.Now()
	b.start(h, 0, count-last)
	middle := time.Now()
	b.start(h, count-last, last)
	end := time.Now()
	return end.Sub(begin), end.Sub(middle) / time.Duration(last), h.usage().cpu - before.cpu
}

func (b *bench) start(h host, first, count int) {
	if count == 0 {
		return
	}
	if err := h.start(first, count); err != nil {
		b.Fatalf("starting networks: %w", err)
	}
}

// timeRestart restarts the daemon while a guest of the first network opens
// connections.
func timeRestart(b *bench, h host, count int) (time.Duration, flows) {
	guest := nstest.Guest(b, bridge, "guest", "")
	guest.IP("addr add " + manyGuest + " dev " + guestLink)
	guest.IP("route add default via " + manyGateway)
	nstest.Eventually(b, startLimit, "the guest reaches the LAN", func() error {
		return guest.Command(b.Context(), "ping", "-c1", "-W1", nstest.LANHost).Run()
	})
	probe := startFlows(b, guest, nstest.LANHost+":80")
	time.Sleep(flowLimit) // so much quiet before and after belongs to the figure
	took := timeUntilActive(b, h, count, func() { h.halt(); h.launch() })
	time.Sleep(flowLimit)
	return took, probe.end(b)
}

// startAtOnce runs vnetctl for each network, some at the same time.
func startAtOnce(b *bench, count int) time.Duration {
	return timeVerb(b, "start", count, func(count int, do func(n int)) {
		var workers sync.WaitGroup
		next := make(chan int)
		for range clientsAtOnce {
			workers.Go(func() {
				for n := range next {
					do(n)
				}
			})
		}
		for n := range count {
			next <- n
		}
		close(next)
		workers.Wait()
	})
}

// removeNetworks takes down the bridges and rules of all networks at once, after
// the end of the daemon.
func removeNetworks(b *bench) {
	const group = 7
	paths, _ := filepath.Glob("/sys/class/net/virbr*")
	if len(paths) > 0 {
		commands := new(strings.Builder)
		for _, path := range paths {
			_, _ = fmt.Fprintf(commands, "link set %s group %d\n", filepath.Base(path), group)
		}
		_, _ = fmt.Fprintf(commands, "link del group %d\n", group)
		batch := filepath.Join(b.dir, "remove")
		b.write(batch, commands.String())
		nstest.Exec(b, "ip", "-batch", batch)
	}
	for _, iptables := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"filter", "nat", "mangle"} {
			nstest.Exec(b, iptables, "-t", table, "-F")
			nstest.Exec(b, iptables, "-t", table, "-X")
		}
	}
}
