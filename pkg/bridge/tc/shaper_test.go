package tc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
)

// The host and its guests.
const (
	hostAddr  = "192.0.2.1"
	guestAddr = "192.0.2.2"
	otherAddr = "192.0.2.3"
	guestMAC  = "52:54:00:00:00:02"
)

// mbit are the bytes a second of so many Mbit/s.
func mbit(n float64) uint64 { return uint64(n * 1e6 / 8) }

// device is the end of a guest's card in the test's namespace.
type device struct {
	name  string
	index int
}

func lookup(t *testing.T, name string) device {
	t.Helper()
	link, err := net.InterfaceByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return device{name, link.Index}
}

func newShaper(t *testing.T) *tc.Shaper {
	t.Helper()
	s, err := tc.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// mend has d be as cfg says, and tells what differed.
func mend(t *testing.T, s *tc.Shaper, d device, cfg tc.Config) (differed []tc.Change) {
	t.Helper()
	changes, err := s.Compare(d.index, d.name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		if err := c.Mend(); err != nil {
			t.Fatalf("%s, want %s: %v", c.Has, c.Want, err)
		}
	}
	return changes
}

// kept fails the test unless d is as cfg says.
func kept(t *testing.T, s *tc.Shaper, d device, cfg tc.Config) {
	t.Helper()
	changes, err := s.Compare(d.index, d.name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		t.Errorf("%s is %q, want %q", d.name, c.Has, c.Want)
	}
}

// hypervisor makes a bridge with two guests, and returns the first one's port.
func hypervisor(t *testing.T) (guest, other *nstest.NS, bridge, port device) {
	t.Helper()
	nstest.IP(t, "link add br0 type bridge")
	nstest.IP(t, "addr add "+hostAddr+"/24 dev br0")
	nstest.IP(t, "link set br0 up")
	guest, other = nstest.Guest(t, "br0", "guest", guestMAC), nstest.Guest(t, "br0", "other", "")
	guest.IP("addr add " + guestAddr + "/24 dev eth0")
	other.IP("addr add " + otherAddr + "/24 dev eth0")
	return guest, other, lookup(t, "br0"), lookup(t, "v-guest")
}

// measured is what a second got through, in Mbit, to a server in a namespace, from this
// one or another.
func measured(t *testing.T, server, client *nstest.NS, address string, args ...string) float64 {
	t.Helper()
	serve := server.Command(t.Context(), "iperf3", "-s", "-1")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = serve.Wait() }()
	listens(t, server)
	args = append([]string{"-c", address, "-J", "-t", "10"}, args...)
	var out string
	if client != nil {
		out = client.Exec("iperf3", args...)
	} else {
		out = nstest.Exec(t, "iperf3", args...)
	}
	var report struct {
		End struct {
			SumReceived struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return report.End.SumReceived.BitsPerSecond / 1e6
}

// listens waits for a server in a namespace.
func listens(t *testing.T, server *nstest.NS) {
	t.Helper()
	nstest.Eventually(t, time.Minute, "a server", func() error {
		return server.Command(t.Context(), "sh", "-c", "ss -ltn | grep -q :5201").Run()
	})
}

// What a frame of 1514 bytes carries: rates are those of frames with their header.
const (
	frame      = 1514
	tcpPayload = frame - 14 - 20 - 32 // with time stamps
	udpPayload = frame - 14 - 20 - 8
)

// rate is at which traffic is measured, in Mbit/s: what an emulated machine carries, too,
// even if others leave it little of the processors.
const rate = 2.0

// tries is how often a rate is measured at most: who sends may not get a processor for
// long enough on a busy machine, and nothing that is not sent gets through.
const tries = 5

// near fails the test unless a rate is reached, and never exceeded.
func near(t *testing.T, what string, want float64, measure func() float64) {
	t.Helper()
	for range tries {
		got := measure()
		t.Logf("%s: %.3f Mbit/s, asked for %.0f: %+.1f %%", what, got, want, (got/want-1)*100)
		switch off := got/want - 1; {
		case off > 0.05:
			t.Errorf("%s: %.3f Mbit/s, want %.0f at most", what, got, want)
			return
		case off > -0.05:
			return
		}
	}
	t.Errorf("%s: never %.0f Mbit/s within 5 %%", what, want)
}

// flood are arguments of iperf3 by which it sends a quarter more than the rate: enough to be
// seen, and an emulated machine has to carry it all.
func flood(more ...string) []string {
	const load = rate * 1.25e6
	return append(more, "-b", fmt.Sprint(uint64(load)))
}

// TestRates has a port's traffic go at the rate that it shall, in both directions, with
// the offloads on.
func TestRates(t *testing.T) {
	udp := flood("-u", "-l", strconv.Itoa(udpPayload))
	for _, c := range []struct {
		name    string
		toGuest bool
		payload float64
		args    []string
	}{{"TCP to the guest", true, tcpPayload, nil}, {"TCP from the guest", false, tcpPayload, nil}, {"UDP to the guest", true, udpPayload, udp}, {"UDP from the guest", false, udpPayload, udp}} {
		t.Run(c.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				guest, other, _, port := hypervisor(t)
				r := tc.Rate{Average: mbit(rate)}
				mend(t, newShaper(t), port, tc.Config{Egress: &r, Ingress: &r})
				server, client, address := other, guest, otherAddr
				if c.toGuest {
					server, client, address = guest, other, guestAddr
				}
				near(t, c.name, rate, func() float64 { return measured(t, server, client, address, c.args...) * frame / c.payload })
			})
		})
	}
}

// TestFloorsAreKept has a guest get what it can count on while others take all they can,
// and others what it leaves.
func TestFloorsAreKept(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		guest, other, bridge, _ := hypervisor(t)
		s := newShaper(t)
		const all, floor = rate, rate * 3 / 4
		mac, err := net.ParseMAC(guestMAC)
		if err != nil {
			t.Fatal(err)
		}
		mend(t, s, bridge, tc.Config{
			Shared: true, Egress: &tc.Rate{Average: mbit(all)}, Floors: []tc.Floor{{Class: tc.MinFloorClass, MAC: mac, Rate: mbit(floor)}},
		})
		near(t, "the other alone", all, func() float64 { return measured(t, other, nil, otherAddr) * frame / tcpPayload })
		ended := floods(t, other)
		for n := 1; ; n++ {
			got := measured(t, guest, nil, guestAddr) * frame / tcpPayload
			t.Logf("the guest gets %.3f Mbit/s of the %.1f that it can count on", got, floor)
			select {
			case err := <-ended:
				t.Fatalf("the others don't take what they can: %v", err)
			default:
			}
			if got > all*1.05 || got < floor*0.95 && n == tries {
				t.Errorf("the guest gets %.3f Mbit/s, want %.1f at least and %.1f at most", got, floor, all)
			}
			if got >= floor*0.95 || n == tries {
				return
			}
		}
	})
}

// floods has others take all that they can until the test ends; ended says why they don't any more.
func floods(t *testing.T, other *nstest.NS) (ended <-chan error) {
	t.Helper()
	serve := other.Command(t.Context(), "iperf3", "-s")
	if err := serve.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(serve.Process.Kill(), serve.Wait()) })
	listens(t, other)
	received := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(other.Exec("cat", "/sys/class/net/eth0/statistics/rx_bytes")))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := received()
	flooding := exec.Command("iperf3", flood("-u", "-c", otherAddr, "-t", "600")...)
	if err := flooding.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- flooding.Wait() }()
	t.Cleanup(func() { _ = flooding.Process.Kill() })
	nstest.Eventually(t, time.Minute, "others send", func() error {
		if n := received() - before; n < int(mbit(rate)) {
			return fmt.Errorf("%d bytes came", n)
		}
		return nil
	})
	return done
}

// state is what tc(8) and nft(8) show of all that is held.
func state(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, dev := range []string{"br0", "v-guest"} {
		for _, what := range []string{"qdisc", "class", "filter"} {
			for line := range strings.Lines(nstest.Exec(t, "tc", what, "show", "dev", dev)) {
				if !strings.HasPrefix(line, "class fq_codel ") { // flows that have a packet waiting just now
					b.WriteString(line)
				}
			}
		}
	}
	b.WriteString(nstest.Exec(t, "nft", "list", "ruleset"))
	return b.String() + nstest.Exec(t, "ip", "-br", "link", "show", "type", "ifb")
}

// TestEverythingThatDiffers has what anybody changes be seen and mended, what is right
// be left alone, and nothing left in the end.
func TestEverythingThatDiffers(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		_, _, bridge, port := hypervisor(t)
		s := newShaper(t)
		before := state(t)
		rate := &tc.Rate{Average: mbit(10), Peak: mbit(20), Burst: 1 << 20}
		one, two := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 2}, net.HardwareAddr{0x52, 0x54, 0, 0, 0, 3}
		network := tc.Config{Shared: true, Egress: rate, Ingress: &tc.Rate{Average: mbit(40000)}, Floors: []tc.Floor{{Class: 3, MAC: one, Rate: mbit(2)}, {Class: 9, MAC: two, Rate: mbit(3)}}}
		guest := tc.Config{Egress: rate, Ingress: rate}
		all := map[device]tc.Config{bridge: network, port: guest}
		for d, cfg := range all {
			mend(t, s, d, cfg)
			kept(t, s, d, cfg)
		}
		made := state(t)
		ifb := "ifb-" + strconv.Itoa(port.index)
		for _, damage := range []string{
			"tc qdisc del dev br0 root", "tc qdisc del dev v-guest root", "tc qdisc replace dev v-guest root pfifo",
			"tc filter del dev br0 prio " + strconv.Itoa(0x4000+3), "tc class change dev br0 parent 766e:1 classid 766e:9 htb rate 1mbit",
			"tc class add dev br0 parent 766e:1 classid 766e:7 htb rate 1mbit",
			"tc qdisc del dev br0 parent 766e:2", "tc qdisc del dev " + ifb + " root",
			"ip link del " + ifb, "ip link set " + ifb + " down", "nft delete table netdev vnetd_bandwidth",
			"nft flush chain netdev vnetd_bandwidth device" + strconv.Itoa(port.index),
		} {
			words := strings.Fields(damage)
			nstest.Exec(t, words[0], words[1:]...)
			differed := 0
			for d, cfg := range all {
				differed += len(mend(t, s, d, cfg))
				kept(t, s, d, cfg)
			}
			if differed == 0 {
				t.Errorf("nothing is amiss after %s", damage)
			}
		}
		if now := state(t); strings.Count(now, "\n") != strings.Count(made, "\n") {
			t.Errorf("mended, it is\n%s\nand was\n%s", now, made)
		}
		fewer := network
		fewer.Floors = network.Floors[1:]
		mend(t, s, bridge, fewer)
		kept(t, s, bridge, fewer)
		for d := range all {
			mend(t, s, d, tc.Config{})
			kept(t, s, d, tc.Config{})
		}
		if after := strings.Replace(state(t), "table netdev vnetd_bandwidth {\n}\n", "", 1); after != before {
			t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
		}
	})
}

// TestOthersOfTheDevice has what others set up at a device's ingress stay, and an IFB
// device with our name be theirs.
func TestOthersOfTheDevice(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		_, _, _, port := hypervisor(t)
		s := newShaper(t)
		nstest.Exec(t, "tc", "qdisc", "add", "dev", port.name, "ingress")
		cfg := tc.Config{Egress: &tc.Rate{Average: mbit(1)}, Ingress: &tc.Rate{Average: mbit(1)}}
		mend(t, s, port, cfg)
		mend(t, s, port, tc.Config{})
		if has := nstest.Exec(t, "tc", "qdisc", "show", "dev", port.name); !strings.Contains(has, "ingress") {
			t.Errorf("somebody's ingress qdisc is gone:\n%s", has)
		}
		nstest.IP(t, "link add ifb-"+strconv.Itoa(port.index)+" type ifb")
		if _, err := s.Compare(port.index, port.name, cfg); err == nil || !strings.Contains(err.Error(), "somebody else's") {
			t.Errorf("with somebody's device of the name: %v", err)
		}
	})
}

// TestUnfill takes away what libvirt has for checksums, and nobody else's queue.
func TestUnfill(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add virbr0 type bridge")
		s, d := newShaper(t), lookup(t, "virbr0")
		for _, c := range []struct {
			name string
			has  []string
			left string
		}{
			{"nothing", nil, ""},
			{"libvirt's", []string{"qdisc add dev virbr0 root handle 1: htb default 2", "filter add dev virbr0 prio 2 protocol ip parent 1: u32 match ip dport 68 ffff flowid 1:2"}, ""},
			{"with a class", []string{"qdisc add dev virbr0 root handle 1: htb default 2", "class add dev virbr0 parent 1: classid 1:1 htb rate 8mbit"}, "htb 1:"},
			{"another handle", []string{"qdisc add dev virbr0 root handle 7: htb default 2"}, "htb 7:"},
			{"another kind", []string{"qdisc add dev virbr0 root handle 1: pfifo"}, "pfifo 1:"},
		} {
			for _, command := range c.has {
				nstest.Exec(t, "tc", strings.Fields(command)...)
			}
			if err := s.Unfill(d.index); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			if got := nstest.Exec(t, "tc", "qdisc", "show", "dev", d.name); c.left == "" && strings.Contains(got, "htb") || !strings.Contains(got, c.left) {
				t.Errorf("%s: %q is there, want %q", c.name, got, c.left)
			}
			_ = exec.CommandContext(t.Context(), "tc", "qdisc", "del", "dev", d.name, "root").Run()
		}
	})
}

// TestSweep clears what is left of a device that is gone, and of no other.
func TestSweep(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		_, _, bridge, port := hypervisor(t)
		s := newShaper(t)
		cfg := tc.Config{Ingress: &tc.Rate{Average: mbit(1)}}
		mend(t, s, port, cfg)
		mend(t, s, bridge, cfg)
		nstest.IP(t, "link del "+port.name)
		if err := s.Sweep(false); err != nil {
			t.Fatal(err)
		}
		kept(t, s, bridge, cfg)
		gone, stays := strconv.Itoa(port.index), strconv.Itoa(bridge.index)
		if has := beside(t); strings.Contains(has, "ifb-"+gone) || strings.Contains(has, "device"+gone+" ") || !strings.Contains(has, "ifb-"+stays) {
			t.Errorf("after the end of device %s:\n%s", gone, has)
		}
		if err := s.Sweep(true); err != nil {
			t.Fatal(err)
		}
		if has := beside(t); strings.Contains(has, "ifb-") || strings.Contains(has, "chain") {
			t.Errorf("after all was cleared:\n%s", has)
		}
	})
}

// beside is what there is beside devices.
func beside(t *testing.T) string {
	t.Helper()
	return nstest.Exec(t, "nft", "list", "ruleset") + nstest.Exec(t, "ip", "-br", "link", "show", "type", "ifb")
}
