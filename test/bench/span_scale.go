package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// A cluster as it may become: members, of which the first is measured, and guests of each
// network, all on the others.
const (
	spanNetworks = 500
	spanMembers  = 16
	spanGuests   = 20
)

// spanEntries are those of forwarding tables: where guests are, and who floods to whom.
const spanEntries = spanNetworks * (spanGuests + spanMembers - 1)

// spanScaleXML is the n-th of these networks.
const spanScaleXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>net%[1]d</name>
  <forward mode='nat'/>
  <bridge name='virbr%[1]d' stp='on' delay='0'/>
  <ip address='10.%[2]d.%[3]d.1' netmask='255.255.255.0'>
    <dhcp><range start='10.%[2]d.%[3]d.2' end='10.%[2]d.%[3]d.254'/></dhcp>
  </ip>
  <vnetd:span cluster='lab' vni='%[4]d'/>
</network>
`

// spanScale prints what many networks of a cluster cost one of its hosts.
func spanScale(b *bench) {
	c := newSpanCluster(b, 1)
	c.others()
	defined := timeOf(func() {
		pooled(b, spanNetworks, func(n int) error {
			_, err := c.bus[0].DefineNetwork(b.Context(), fmt.Sprintf(spanScaleXML, n, 100+n/256, n%256, n+1), api.DefineOptions{})
			if err == nil {
				err = c.bus[0].Network(fmt.Sprintf("net%d", n)).SetAutostart(b.Context(), true)
			}
			return err
		})
	})
	c.guests()
	c.hosts[0].KillVnetd()
	empty := kernelMemory(b)
	t := new(table)
	t.add("", "start", "to all guests", "CPU", "PSS", "kernel, a network", "in step again", "CPU", "stop")
	for n := range 3 {
		t.add(append([]string{strconv.Itoa(n + 1)}, c.life(empty, n)...)...)
	}
	b.printf("%s", t)
	b.printf("  %d networks of a cluster with %d members, %d guests on each, all on other hosts; definitions and autostart took %v\n", spanNetworks, spanMembers, spanGuests, defined.Round(time.Millisecond))
	b.printf("  start: of vnetd after the host's, until all networks are active, and until all %d entries of FDBs are there\n", spanEntries)
	b.printf("  in step again: from when vnetd goes on that stood still while a guest of each network moved and etcd forgot how, until the FDBs have it\n")
	b.printf("  stop: vnetd --cleanup; kernel: slabs that it keeps, memory of processors, page tables and vmalloc\n")
}

// others makes the members that are not measured.
func (c *spanCluster) others() {
	var all []cluster.Op
	for i := 1; i < spanMembers; i++ {
		h := fmt.Sprintf("h%d", i+1)
		all = append(all, op(record.Key{Kind: record.KindMember, Host: h}, &record.Member{Underlay: spanUnderlay(i), MTU: 1500, Version: "bench", Boot: h, Epoch: 1}),
			op(record.Key{Kind: record.KindAlive, Host: h}, &record.Alive{Boot: h}))
	}
	c.write(all)
}

// spanGuest is the key of a guest of a network, and its host.
func spanGuest(network, n int) (record.MAC, string) {
	return record.MAC{0x52, 0x54, 0, byte(network >> 8), byte(network), byte(n)}, fmt.Sprintf("h%d", 2+n%(spanMembers-1))
}

// guests has them come on the members that are not measured.
func (c *spanCluster) guests() {
	var all []cluster.Op
	for network := range spanNetworks {
		name := fmt.Sprintf("net%d", network)
		for n := range spanGuests {
			mac, host := spanGuest(network, n)
			addr := netip.AddrFrom4([4]byte{10, byte(100 + network/256), byte(network % 256), byte(200 + n)})
			all = append(all, op(record.Key{Kind: record.KindPort, Host: host, Network: name, ID: mac.String()}, &record.Port{UUID: mac.String(), Owner: mac.String(), Name: fmt.Sprintf("g%d", n), Seq: 1, State: record.Here}),
				op(record.Key{Kind: record.KindLease, Host: host, Network: name, ID: addr.String()}, &record.Lease{MAC: mac, Name: fmt.Sprintf("g%d", n), End: time.Now().Add(time.Hour).Unix(), Seq: 1}))
		}
	}
	c.write(all)
}

// life has vnetd start all networks, miss what happens, and take them down. It returns the
// cells of a row.
func (c *spanCluster) life(empty int, n int) []string {
	h := c.hosts[0]
	begin := time.Now()
	h.StartVnetd()
	c.active(0, spanNetworks)
	started := time.Since(begin)
	c.entries("dst", spanEntries)
	whole, up := time.Since(begin), c.usage(0)
	kernel := (kernelMemory(c.b) - empty) / spanNetworks
	again, cost := c.missed(n)
	h.KillVnetd()
	stopped := timeOf(func() { h.Exec(h.Bin+"/vnetd", "--cleanup") })
	return []string{millis(started), millis(whole), seconds(up.cpu), up.memory(), fmt.Sprintf("%d KiB", kernel), millis(again), seconds(cost), millis(stopped)}
}

// missed has a guest of each network move while vnetd stands still and etcd starts again, and
// forgets what was before: vnetd has to list everything.
func (c *spanCluster) missed(n int) (took, cost time.Duration) {
	if err := syscall.Kill(c.hosts[0].VnetdPID(), syscall.SIGSTOP); err != nil {
		c.b.Fatalf("%w", err)
	}
	c.etcd.Stop()
	c.etcd.Start()
	var all []cluster.Op
	to, seq := n%2+14, uint64(n+2) // the last two members in turn: on others the guest is not
	host, was := fmt.Sprintf("h%d", to), fmt.Sprintf("h%d", 29-to)
	for network := range spanNetworks {
		mac, first := spanGuest(network, 0)
		if n == 0 {
			was = first
		}
		k := record.Key{Kind: record.KindPort, Host: was, Network: fmt.Sprintf("net%d", network), ID: mac.String()}
		all = append(all, cluster.Op{Key: k.Path(spanName)})
		k.Host = host
		all = append(all, op(k, &record.Port{UUID: mac.String() + strconv.Itoa(n), Owner: mac.String(), Name: "g0", Seq: seq, State: record.Here}))
	}
	nstest.Eventually(c.b, startLimit, "etcd answers", func() error {
		_, err := c.store.List(c.b.Context(), record.Key{Kind: record.KindMeta}.Path(spanName), 0)
		return err
	})
	c.write(all)
	c.forget()
	before := c.usage(0).cpu
	begin := time.Now()
	if err := syscall.Kill(c.hosts[0].VnetdPID(), syscall.SIGCONT); err != nil {
		c.b.Fatalf("%w", err)
	}
	addr, _ := strings.CutPrefix(host, "h")
	i, _ := strconv.Atoi(addr)
	c.moved(spanUnderlay(i - 1))
	return time.Since(begin), c.usage(0).cpu - before
}

// forget has etcd forget all that was before.
func (c *spanCluster) forget() {
	l, err := c.store.List(c.b.Context(), record.Key{Kind: record.KindMeta}.Path(spanName), 0)
	if err == nil {
		_, err = c.admin.Compact(c.b.Context(), l.Revision)
	}
	if err != nil {
		c.b.Fatalf("etcd does not forget: %w", err)
	}
}

// moved waits until the first guest of each network is at an address for the kernel.
func (c *spanCluster) moved(to netip.Addr) {
	c.eventually("all guests that moved are elsewhere", func(fdb []byte) error {
		there := 0
		for line := range bytes.Lines(fdb) {
			if bytes.HasPrefix(line, []byte("52:54:00:")) && bytes.HasPrefix(line[15:], []byte("00 ")) && bytes.Contains(line, []byte("dst "+to.String()+" ")) {
				there++
			}
		}
		if there != spanNetworks {
			return fmt.Errorf("%d are", there)
		}
		return nil
	})
}

// entries waits until there are so many with a word in FDBs.
func (c *spanCluster) entries(word string, want int) {
	c.eventually("all FDBs are there", func(fdb []byte) error {
		if n := bytes.Count(fdb, []byte(" "+word+" ")); n != want {
			return fmt.Errorf("%d entries, want %d", n, want)
		}
		return nil
	})
}

// eventually waits until the FDBs of the measured host are as they should be.
func (c *spanCluster) eventually(what string, as func(fdb []byte) error) {
	nstest.Eventually(c.b, 5*time.Minute, what, func() error { return as([]byte(c.hosts[0].Exec("bridge", "fdb", "show"))) })
}

// kernelMemory is what the kernel has for itself, in KiB: without caches of files, which it
// gives back.
func kernelMemory(b *bench) (sum int) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		b.Fatalf("%w", err)
	}
	defer func() { _ = f.Close() }()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if slices.Contains([]string{"SUnreclaim:", "Percpu:", "PageTables:", "VmallocUsed:"}, fields[0]) {
			n, err2 := strconv.Atoi(fields[1])
			sum, err = sum+n, errors.Join(err, err2)
		}
	}
	if err != nil {
		b.Fatalf("/proc/meminfo: %w", err)
	}
	return sum
}
