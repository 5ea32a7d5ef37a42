package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

const (
	spanRatePeriod = 5 * time.Second
	spanRateHosts  = 3
)

// spanRateXML is the network whose addresses they have.
const spanRateXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>apps</name>
  <forward mode='nat'/>
  <bridge name='virbr7' stp='off' delay='0'/>
  <ip address='` + serverAddr + `' netmask='` + netmask + `'>
    <dhcp><range start='` + rangeStart + `' end='` + rangeEnd + `'/></dhcp>
  </ip>
  <vnetd:span cluster='` + spanName + `' vni='7'/>
</network>
`

// spanRate prints how fast hosts of a cluster give addresses of its blocks, and how far etcd is
// behind.
func spanRate(b *bench) {
	t := new(table)
	t.add("clients/s", "leases/s", "lost", "D-O p50", "D-O p99", "R-A p50", "R-A p99", "etcd has all after", "CPU of vnetd", "of etcd")
	for _, rates := range [][]int{{6000}, {2000, 2000, 2000}, {500, 500, 500}} {
		b.play(func(b *bench) { t.add(measureSpanRate(b, rates)...) })
	}
	b.printf("%s", t)
	b.printf("  three hosts, for %v, by a relay on each; blocks of 64 addresses; CPU: of all daemons, until etcd has all leases\n", spanRatePeriod)
}

// measureSpanRate returns a row: so many clients come a second on each of the first hosts.
func measureSpanRate(b *bench, rates []int) []string {
	c := newSpanCluster(b, spanRateHosts)
	c.serve()
	loads := make([]*load, len(rates))
	for i, rate := range rates {
		loads[i] = c.load(i, rate)
	}
	vnetd, etcd := server{comm: "vnetd"}.usage(b).cpu, server{comm: "etcd"}.usage(b).cpu
	var group sync.WaitGroup
	errs := make([]error, len(loads))
	for i, l := range loads {
		group.Go(func() { _, errs[i] = l.run(spanRatePeriod, maxClients) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatalf("%w", err)
	}
	leases, lost := 0, 0
	var offers, grants []time.Duration
	for _, l := range loads {
		leases, lost = leases+l.result.leases, lost+l.result.lost
		offers, grants = append(offers, l.result.offers...), append(grants, l.result.grants...)
	}
	mirrored := timeOf(func() { c.mirrored(leases) })
	return []string{
		strings.Trim(strings.ReplaceAll(fmt.Sprint(rates), " ", "+"), "[]"), fmt.Sprintf("%.0f", float64(leases)/spanRatePeriod.Seconds()), fmt.Sprint(lost),
		millis(quantile(offers, 0.5)), millis(quantile(offers, 0.99)), millis(quantile(grants, 0.5)), millis(quantile(grants, 0.99)), millis(mirrored),
		seconds(server{comm: "vnetd"}.usage(b).cpu - vnetd), seconds(server{comm: "etcd"}.usage(b).cpu - etcd),
	}
}

// serve has all hosts serve the network, each with addresses of its own.
func (c *spanCluster) serve() {
	b := c.b
	nstest.Eventually(b, startLimit, "the network is defined", func() error {
		_, err := c.bus[0].DefineNetwork(b.Context(), spanRateXML, api.DefineOptions{})
		return err
	})
	if err := errors.Join(c.bus[0].Network("apps").Start(b.Context()), c.bus[0].Network("apps").SetAutostart(b.Context(), true)); err != nil {
		b.Fatalf("%w", err)
	}
	for i := range c.hosts {
		c.active(i, 1)
	}
	nstest.Eventually(b, startLimit, "all hosts have addresses", func() error {
		l, err := c.store.List(b.Context(), record.Prefix(spanName), 0)
		if err != nil {
			return err
		}
		hosts := cluster.Read(spanName, l).Hosts()
		if slices.ContainsFunc(hosts, func(h cluster.HostState) bool { return h.Blocks == 0 }) || len(hosts) != len(c.hosts) {
			return fmt.Errorf("%+v", hosts)
		}
		return nil
	})
}

// load is clients of a host, behind a relay on its bridge, so many a second.
func (c *spanCluster) load(i, rate int) *load {
	guest := nstest.NewNS(c.b, fmt.Sprintf("guest%d", i+1))
	relay := netip.AddrFrom4([4]byte{10, 20, 255, byte(i + 1)})
	nstest.IP(c.b, fmt.Sprintf("link add port netns %s type veth peer name %s netns %s", c.hosts[i].Name, guestLink, guest.Name))
	c.hosts[i].IP("link set port master virbr7 up")
	guest.IP("link set " + guestLink + " up")
	guest.IP(fmt.Sprintf("addr add %v%s dev %s", relay, prefix, guestLink))
	nstest.Eventually(c.b, startLimit, "the guest reaches the server", func() error {
		return guest.Command(c.b.Context(), "ping", "-c1", "-W1", serverAddr).Run()
	})
	l := &load{server: netip.MustParseAddr(serverAddr), relay: relay, window: maxClients, rate: rate, next: i * maxClients, waiting: make(map[int]*visitor)}
	var err error
	if l.wire, err = openRelay(guest, l.relay, l.server); err != nil {
		c.b.Fatalf("opening the guest's socket: %w", err)
	}
	c.b.Cleanup(func() { _ = l.Close() })
	return l
}

// mirrored waits until the store has so many leases, or more: of some clients the answer may
// have come too late to count.
func (c *spanCluster) mirrored(leases int) {
	nstest.Eventually(c.b, 5*time.Minute, "etcd has all leases", func() error {
		l, err := c.store.List(c.b.Context(), record.Prefix(spanName), 0)
		if err != nil {
			return err
		}
		n := 0
		for _, h := range cluster.Read(spanName, l).Hosts() {
			n += h.Leases
		}
		if n < leases {
			return fmt.Errorf("it has %d, want %d", n, leases)
		}
		return nil
	})
}
