package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// loadPeriod is how long each load lasts. Beside leases of others loadFirst are given ahead of it: how
// much memory a server takes is seen then, when it has been at work and has few leases more than those.
const (
	loadPeriod = 3 * time.Second
	loadFirst  = 4000
)

// present are how many leases others have when a load begins.
func present() []int { return []int{0, 1000, 10000, 60000} }

// lessor is a DHCP server to be measured with leases that are there already.
type lessor struct {
	name string
	most int  // leases with which it can be started
	ipv6 bool // it is measured with DHCPv6, too
	// start starts it on the bridge, with its state in dir and so many leases.
	start func(b *bench, dir string, ipv6 bool, leases int) server
}

// lessors are the servers of dhcp-leases.
func lessors() []lessor {
	return []lessor{
		{"vnetd", 60000, true, startVnetdLeases},
		{"Kea", 60000, true, startKea},
		// It tells its script of every lease that it finds when it starts.
		{"dnsmasq, no ping", 1000, false, func(b *bench, dir string, _ bool, leases int) server {
			writeHelperLeases(b, leasesFile(dir), leases)
			return startDnsmasq(b, dir, true, false)
		}},
	}
}

// dhcpLeases finds what leases cost that are there already.
func dhcpLeases(b *bench) {
	t := new(table)
	t.add("server", "family", "present", "leases/s", "lost", "D-O p50", "D-O p99", "R-A p50", "R-A p99", "CPU/lease", "PSS")
	for _, s := range lessors() {
		for _, ipv6 := range []bool{false, true} {
			for _, leases := range present() {
				if leases > s.most || ipv6 && !s.ipv6 {
					continue
				}
				b.play(func(b *bench) { t.add(measureLoad(b, s, ipv6, leases)...) })
			}
		}
	}
	b.printf("%s", t)
	for _, family := range []string{"IPv4", "IPv6"} {
		of := func(row []string) bool { return row[1] == family }
		b.draw(curvesOf(t, "leases-"+family, "CPU time of one more lease of "+family+", us, beside so many", "present", "CPU/lease", of))
		b.draw(curvesOf(t, "memory-"+family, "memory with so many leases of "+family+", MiB", "present", "PSS", of))
	}
	b.printf("  D-O: DISCOVER to OFFER, or Solicit to Advertise; R-A: REQUEST to ACK, or Request to Reply; lost: who was refused, too\n")
	b.printf("  %d clients ask at a time, all of them new, for %v; PSS: after the first %d leases\n", loadWindow, loadPeriod, loadFirst)
}

// measureLoad is a row of the table.
func measureLoad(b *bench, s lessor, ipv6 bool, leases int) []string {
	srv, guest := b.beside(s, ipv6, leases)
	l := newLoad(b, guest, ipv6, leases+1)
	b.await(l, s.name)
	if _, err := l.run(startLimit, loadFirst); err != nil {
		b.Fatalf("%s with %d leases: %w", s.name, leases, err)
	}
	clear(l.waiting)
	l.result = loadResult{}
	// Our own collector takes a processor from the server, a few times a second.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	before := srv.usage(b)
	got, err := l.run(loadPeriod, wideClients-leases-loadFirst-4*loadWindow)
	if err != nil {
		b.Fatalf("%s with %d leases: %w", s.name, leases, err)
	}
	after := srv.usage(b)
	after.pss = before.pss
	return append([]string{s.name, familyName(ipv6), strconv.Itoa(leases)}, got.cells(before, after)...)
}

// beside starts a server with leases that others have, and a guest on its bridge.
func (b *bench) beside(s lessor, ipv6 bool, leases int) (server, *nstest.NS) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	srv := s.start(b, dir, ipv6, leases)
	guest := nstest.Guest(b, bridge, "guest", "")
	guest.IP("addr add " + guestAddr + prefix + " dev " + guestLink)
	nstest.Eventually(b, startLimit, "the guest has a link-local address", func() error {
		if got := guest.IP("-6 addr show dev " + guestLink); strings.Contains(got, "tentative") || !strings.Contains(got, "fe80::") {
			return errors.New(got)
		}
		return nil
	})
	return srv, guest
}

// familyName is the name of a family in tables.
func familyName(ipv6 bool) string {
	if ipv6 {
		return "IPv6"
	}
	return "IPv4"
}

// await has clients ask until some have a lease, and forgets that.
func (b *bench) await(l *load, name string) {
	if got, err := l.run(startLimit, 1); err != nil || got.leases == 0 {
		b.Fatalf("%s gives no lease: %w", name, cmp.Or(err, errSilent))
	}
	clear(l.waiting)
	l.result = loadResult{}
}

// held is the n-th address of the range that starts there, which somebody has already.
func held(start string, n int) netip.Addr {
	a := netip.MustParseAddr(start).AsSlice()
	end := a[len(a)-4:]
	binary.BigEndian.PutUint32(end, binary.BigEndian.Uint32(end)+uint32(n))
	addr, _ := netip.AddrFromSlice(a)
	return addr
}

// writeLines makes a file of a line for each lease.
func writeLines(b *bench, path, head string, leases int, line func(n int) string) {
	text := []byte(head)
	for n := range leases {
		text = append(text, line(n)...)
	}
	b.write(filepath.Clean(path), string(text))
}
