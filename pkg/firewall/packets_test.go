package firewall_test

import (
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// What a packet costs is the best of bursts, of which there are some after each change of
// rules: the rules come in turn, so that what else the machine does falls on all alike.
const (
	packetTurns  = 30
	packetBursts = 20
	packetBurst  = 400
)

// TestPacketsCost prints what a packet of an established connection costs from a guest to the
// LAN, and back, from one TAP device to another, with nobody at either end.
func TestPacketsCost(t *testing.T) {
	if os.Getenv("VNETD_BENCHMARK") == "" {
		t.Skip("it prints figures alone: VNETD_BENCHMARK=1 go test -v -count=1 -run PacketsCost ./pkg/firewall")
	}
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, writer: byNFTables, log: new(logBuffer)}
		w := newWires(h)
		lan := w.join("lan", "eno1", "", 250, netip.MustParseAddr(nstest.LANHost))
		nstest.IP(w, "addr add "+nstest.Uplink+"/24 dev eno1")
		nstest.IP(w, "link add virbr0 address 02:00:00:00:02:00 type bridge")
		nstest.IP(w, "link set virbr0 up")
		nstest.IP(w, "addr add 192.168.122.1/24 dev virbr0")
		guest := w.join("guest", "tap0", "virbr0", 1, netip.MustParseAddr("192.168.122.2"))
		runtime.LockOSThread()
		rules := []struct {
			name  string
			write func()
			costs [2][]time.Duration
		}{
			{name: "one rule that translates", write: func() {
				h.nft("table ip t { chain p { type nat hook postrouting priority 100; ip saddr 192.168.122.0/24 oifname eno1 masquerade; }; }")
			}},
			{name: "vnetd, nftables", write: func() { h.set(h.firewall(false), natNetwork()) }},
			{name: "vnetd without vnetd_user", write: func() {
				h.set(h.firewall(false), natNetwork())
				h.nft("delete table inet vnetd_user")
			}},
			{name: "one with an empty chain", write: func() {
				h.nft("table ip t { chain p { type nat hook postrouting priority 100; ip saddr 192.168.122.0/24 oifname eno1 masquerade; }; chain f { type filter hook forward priority 0; }; }")
			}},
		}
		for turn := range packetTurns {
			for i := range rules {
				r := &rules[i]
				nstest.Exec(t, "nft", "flush", "ruleset")
				r.write()
				s := &sending{from: guest, packet: packet{source: guest.addrs[0], dest: lan.addrs[0], protocol: udp, from: uint16(40000 + turn), to: uint16(4000 + i)}}
				w.carry([]*sending{s})
				if s.arrived() == nil {
					t.Fatalf("%s: %s", r.name, s.failure())
				}
				reply := s.arrived().reply()
				r.costs[0] = append(r.costs[0], w.cost(guest, lan, s.packet))
				r.costs[1] = append(r.costs[1], w.cost(lan, guest, reply))
			}
		}
		for _, r := range rules {
			for i, to := range []string{"to the LAN", "back"} {
				slices.Sort(r.costs[i])
				t.Logf("%-26s %-10s %v, in the middle %v", r.name, to, r.costs[i][0], r.costs[i][packetTurns/2])
			}
		}
	})
}

// cost is the time that a packet takes from one to another.
func (w *wires) cost(from, to *party, p packet) time.Duration {
	w.Helper()
	frame, in := from.frame(p), make([]byte, 1<<11)
	best := time.Hour
	for range packetBursts {
		start := time.Now()
		for range packetBurst {
			_, _ = unix.Write(int(from.tap.Fd()), frame)
		}
		best = min(best, time.Since(start)/packetBurst)
		came := 0
		for ; ; came++ {
			if _, err := unix.Read(int(to.tap.Fd()), in); err != nil {
				break
			}
		}
		if came < packetBurst {
			w.Fatalf("of %d packets %d came", packetBurst, came)
		}
	}
	return best
}
