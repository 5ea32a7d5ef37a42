package v4_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// probing is a server that asks who has an address before it offers it.
func probing() v4.Config {
	c := testConfig()
	c.Probe = true
	return c
}

// The probe takes its time with an address that is new, and with no other.
func TestProbeFindsNobody(t *testing.T) {
	simulated(t, probing, func(t *testing.T, e *env) {
		link := e.wire.(simWire).link
		begin := time.Now()
		a := e.discover(mac(2))
		if took := time.Since(begin); took != v4.ProbeWait {
			t.Errorf("the first offer took %v, want %v", took, v4.ProbeWait)
		}
		for range 2 {
			if got := <-link.Asked(); got != a {
				t.Errorf("asked for %v, offered %v", got, a)
			}
		}
		begin = time.Now()
		if again := e.discover(mac(2)); again != a {
			t.Errorf("offered %v, then %v", a, again)
		}
		e.lease(mac(2))
		e.release(mac(2), a)
		e.lease(mac(2))
		if took := time.Since(begin); took != 0 || len(link.Asked()) != 0 {
			t.Errorf("an address that is known took %v and %d more questions", took, len(link.Asked()))
		}
	})
}

// Nobody waits for the probe of another client's address.
func TestProbeBlocksNobody(t *testing.T) {
	simulated(t, probing, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		e.send(dhcpv4.MessageTypeDiscover, mac(3))
		e.send(dhcpv4.MessageTypeDiscover, mac(4))
		begin := time.Now()
		e.want(e.renew(mac(2), a), fmt.Sprint("ACK ", a))
		if took := time.Since(begin); took != 0 {
			t.Errorf("a renewal waited %v", took)
		}
		first, second := e.receive(), e.receive()
		if took := time.Since(begin); took != v4.ProbeWait || first.yiaddr() == second.yiaddr() {
			t.Errorf("%v and %v took %v, want both after %v", first, second, took, v4.ProbeWait)
		}
	})
}

// Somebody has the address: another one is offered, and the trouble is told.
func TestProbeFindsSomebody(t *testing.T) {
	log := new(bytes.Buffer)
	cfg := func() v4.Config {
		c := probing()
		c.Logger = slog.New(slog.NewTextHandler(log, nil))
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		link := e.wire.(simWire).link
		e.send(dhcpv4.MessageTypeDiscover, mac(2))
		taken := <-link.Asked()
		link.Claim(taken, mac(2)) // the client itself, from before
		link.Claim(ip(7), mac(7)) // some other address
		link.Claim(taken, mac(9))
		a := e.receive().yiaddr()
		if a == taken {
			t.Fatalf("%v was offered, which is in use", a)
		}
		e.want(e.selecting(mac(2), a), fmt.Sprint("ACK ", a))
		e.want(e.initReboot(mac(3), taken), "NAK address in use")
		if l, ok := e.store.Lease(t, taken); !ok || l.State != dhcpd.StateDeclined || l.MAC.String() != mac(9).String() {
			t.Errorf("the record of the address in use is %+v", l)
		}
		if n := e.srv.Stats().Conflicts; n != 1 {
			t.Errorf("%d conflicts are counted, want 1", n)
		}
		e.send(dhcpv4.MessageTypeDiscover, mac(3), requested(taken))
		if got := e.receive().yiaddr(); got == taken {
			t.Errorf("%v was offered to another client", got)
		}
		time.Sleep(dhcpd.DeclineHold + time.Minute)
		if got := e.discover(mac(4), requested(taken)); got != taken {
			t.Errorf("got %v when the address had rested, want %v", got, taken)
		}
	})
	if got := log.String(); !strings.Contains(got, "used_by="+mac(9).String()) {
		t.Errorf("the log does not tell of the conflict:\n%s", got)
	}
}

// A guest has set an address of the range by hand.
func TestProbeMeetsAGuest(t *testing.T) {
	const hw = "00:00:5e:00:53:42"
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := probing()
		cfg.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(101)}}
		e := start(t, cfg, nil, v4.Open)
		squatter := nstest.Guest(t, "br0", "g2", "")
		guest := nstest.Guest(t, "br0", "g1", hw)
		path, _ := script(t)
		squatter.IP("addr add 192.0.2.100/24 dev eth0")
		nstest.Exec(t, "ping", "-c1", "-W10", "192.0.2.100")
		// It asks for the one that is taken.
		dhcpdtest.RunClient(t, guest, "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-s", path, "-r", "192.0.2.100")
		if l := wantLease(t, e, hw, ""); l.Addr != ip(101) {
			t.Errorf("the guest was given %v, want the one that nobody has", l.Addr)
		}
		if n := e.srv.Stats().Conflicts; n != 1 {
			t.Errorf("%d conflicts are counted, want 1", n)
		}
	})
}

// Frames of ARP as they are on the wire.
func TestARP(t *testing.T) {
	probe := v4.ARPProbe(mac(1), ip(100))
	want := []byte{
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x5e, 0, 0x53, 1, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1,
		0, 0, 0x5e, 0, 0x53, 1, 0, 0, 0, 0,
		0, 0, 0, 0, 0, 0, 192, 0, 2, 100,
	}
	if !bytes.Equal(probe, want) {
		t.Errorf("the probe is %x, want %x", probe, want)
	}
	if a, _ := v4.ARPSender(probe); a.IsValid() {
		t.Errorf("a probe says that its sender has %v", a)
	}
	copy(want[28:], []byte{192, 0, 2, 7})
	if a, hw := v4.ARPSender(want); a != ip(7) || hw.String() != mac(1).String() {
		t.Errorf("got %v of %v", a, hw)
	}
	for n := range want {
		if a, _ := v4.ARPSender(want[:n]); a.IsValid() {
			t.Errorf("%d bytes of a packet say %v", n, a)
		}
	}
}

// A server can't begin to probe while it runs: that takes another socket.
func TestProbeIsNotReconfigured(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		cfg := e.cfg
		cfg.Probe = true
		if err := e.srv.Reconfigure(cfg); err == nil {
			t.Error("the server took it")
		}
	})
}
