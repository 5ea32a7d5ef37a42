package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// networkXML is the n-th of some NAT networks.
const networkXML = `<network>
  <name>net%[1]d</name>
  <forward mode='nat' dev='eno1'/>
  <bridge name='virbr%[1]d' stp='on' delay='0'/>
  <ip address='192.168.%[2]d.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='192.168.%[2]d.2' end='192.168.%[2]d.254'/>
    </dhcp>
  </ip>
</network>
`

// How many networks are started at once, and how often.
const (
	manyNetworks = 10
	repeats      = 5
)

// startNetwork times vnetctl, the start of its process included.
func startNetwork(b *bench) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	b.vnetd(dir)
	for n := range manyNetworks {
		xml := filepath.Join(dir, fmt.Sprintf("net%d.xml", n))
		b.write(xml, fmt.Sprintf(networkXML, n, 100+n))
		b.vnetctl("define", xml)
	}
	t := new(table)
	t.add("networks", "start", "stop", "CPU", "PSS while up")
	t.add(timeNetworks(b, "1", 1, inTurn)...)
	t.add(timeNetworks(b, "10, one after the other", manyNetworks, inTurn)...)
	t.add(timeNetworks(b, "10, at once", manyNetworks, atOnce)...)
	b.printf("%s", t)
	b.printf("  command: vnetctl start NET, vnetctl stop NET; median of %d\n", repeats)
}

// timeNetworks starts and stops the first count networks some times and returns
// a row of the table. The CPU time is that of one start and stop of all.
func timeNetworks(b *bench, label string, count int, each func(count int, do func(n int))) []string {
	daemon := server{comm: "vnetd"}
	before := daemon.usage(b)
	var up usage
	var starts, stops []time.Duration
	for range repeats {
		starts = append(starts, timeVerb(b, "start", count, each))
		up = daemon.usage(b)
		stops = append(stops, timeVerb(b, "stop", count, each))
	}
	cpu := (daemon.usage(b).cpu - before.cpu) / repeats
	return []string{label, millis(quantile(starts, 0.5)), millis(quantile(stops, 0.5)), seconds(cpu), up.memory()}
}

// timeVerb runs vnetctl with that verb for count networks.
func timeVerb(b *bench, verb string, count int, each func(count int, do func(n int))) time.Duration {
	results := make([]error, count)
	begin := time.Now()
	each(count, func(n int) {
		results[n] = b.lab.Vnetctl(b.Context(), verb, fmt.Sprintf("net%d", n)).Err()
	})
	took := time.Since(begin)
	for n, err := range results {
		if err != nil {
			b.Fatalf("vnetctl %s net%d: %w", verb, n, err)
		}
	}
	return took
}

// inTurn calls do for each number below count, one after the other.
func inTurn(count int, do func(n int)) {
	for n := range count {
		do(n)
	}
}

// atOnce calls do for each number below count, all together.
func atOnce(count int, do func(n int)) {
	var calls sync.WaitGroup
	for n := range count {
		calls.Go(func() { do(n) })
	}
	calls.Wait()
}
