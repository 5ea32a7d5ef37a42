package main

import (
	"cmp"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// loadPeriod is how long each load lasts.
const loadPeriod = 3 * time.Second

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
	b.printf("  D-O: DISCOVER to OFFER, or Solicit to Advertise; R-A: REQUEST to ACK, or Request to Reply\n")
	b.printf("  %d clients ask at a time, all of them new, for %v\n", loadWindow, loadPeriod)
}

// measureLoad is a row of the table.
func measureLoad(b *bench, s lessor, ipv6 bool, leases int) []string {
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
	l := newLoad(b, guest, ipv6, leases+1)
	b.await(l, s.name)
	before := srv.usage(b)
	got, err := l.run(loadPeriod, maxClients-leases-2*loadWindow)
	if err != nil {
		b.Fatalf("%s with %d leases: %w", s.name, leases, err)
	}
	after := srv.usage(b)
	family := "IPv4"
	if ipv6 {
		family = "IPv6"
	}
	row := []string{s.name, family, strconv.Itoa(leases), strconv.Itoa(int(float64(got.leases) / got.period.Seconds())), strconv.Itoa(got.lost)}
	for _, times := range [][]time.Duration{got.offers, got.grants} {
		if len(times) == 0 {
			times = []time.Duration{0}
		}
		row = append(row, millis(quantile(times, 0.5)), millis(quantile(times, 0.99)))
	}
	each := (after.cpu - before.cpu) / time.Duration(max(got.leases, 1))
	return append(row, strconv.Itoa(int(each.Microseconds()))+" us", after.memory())
}

// await has clients ask until some have a lease, and forgets that.
func (b *bench) await(l *load, name string) {
	if got, err := l.run(startLimit, 1); err != nil || got.leases == 0 {
		b.Fatalf("%s gives no lease: %w", name, cmp.Or(err, errors.New("no answer")))
	}
	clear(l.waiting)
	l.result = loadResult{}
}

// held is the n-th address of the ranges that somebody has already.
func held(ipv6 bool, n int) netip.Addr {
	if ipv6 {
		a := netip.MustParseAddr(rangeStart6).As16()
		binary.BigEndian.PutUint32(a[12:], binary.BigEndian.Uint32(a[12:])+uint32(n))
		return netip.AddrFrom16(a)
	}
	a := netip.MustParseAddr(rangeStart).As4()
	a[2], a[3] = a[2]+byte(n>>8), byte(n)
	return netip.AddrFrom4(a)
}

// writeLines makes a file of a line for each lease.
func writeLines(b *bench, path, head string, leases int, line func(n int) string) {
	text := []byte(head)
	for n := range leases {
		text = append(text, line(n)...)
	}
	b.write(filepath.Clean(path), string(text))
}
