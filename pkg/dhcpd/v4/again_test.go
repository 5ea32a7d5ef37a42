package v4_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/packet"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// waited sends a message that came while nobody served.
func (e *env) waited(typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) {
	e.t.Helper()
	e.wire.(simWire).link.DeliverWaited(e.message(typ, hw, mods...).ToBytes(), netip.AddrPortFrom(netip.IPv4Unspecified(), 68), broadcast)
}

// A client whose acknowledgement went with the server gets it by the REQUEST that waited: for
// the time that is left, to the card that has the lease, which stays as it is.
func TestRequestThatWaited(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		client := mac(7)
		a := e.lease(client, hostname("mine"), clientID("\x00me"))
		time.Sleep(v4.DefaultLeaseTime / 4)
		changes["opened anew"](e, e.cfg)
		had := e.srv.Leases()
		for name, mods := range map[string][]mod{
			"SELECTING":   {requested(a), serverID(serverAddr)},
			"INIT-REBOOT": {requested(a)},
		} {
			e.waited(dhcpv4.MessageTypeRequest, client, append(mods, hostname("other"), clientID("\x00me"), opt(dhcpv4.OptionIPAddressLeaseTime, 0, 0, 1, 0))...)
			r := e.receive()
			e.want(r, fmt.Sprint("ACK ", a))
			if left := r.IPAddressLeaseTime(0); left != v4.DefaultLeaseTime*3/4 {
				t.Errorf("%s: the lease is acknowledged for %v, %v are left", name, left, v4.DefaultLeaseTime*3/4)
			}
			if r.HostName() != "mine" || !r.sent.Framed || r.sent.HW.String() != client.String() {
				t.Errorf("%s: the client is called %q, the reply went to %+v", name, r.HostName(), r.sent)
			}
		}
		e.quiet()
		if diff := cmp.Diff(had, e.srv.Leases()[:1], cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("the lease has changed (-before +after):\n%s", diff)
		}
	})
}

// What waited takes, ends, prolongs and renames no lease, and of what is not so any more, or not
// stored yet, nobody is told.
func TestNeighboursMessageThatWaited(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(8), Addr: ip(50), Name: "www"})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		victim := mac(7)
		a := e.lease(victim, hostname("victim"))
		b := e.lease(evil)
		free := e.discover(mac(10))
		time.Sleep(dhcpd.OfferHold)
		time.Sleep(v4.DefaultLeaseTime / 4)
		changes["opened anew"](e, e.cfg)
		had := fmt.Sprint(e.srv.Leases())
		silent := func(why string) {
			t.Helper()
			synctest.Wait()
			for replies := e.wire.(simWire).link.Replies(); len(replies) > 0; {
				t.Errorf("%s: %+v was sent", why, <-replies)
			}
			if got := fmt.Sprint(e.srv.Leases()); got != had {
				t.Errorf("%s: leased is %s, want %s", why, got, had)
			}
		}
		e.waited(dhcpv4.MessageTypeRelease, victim, ciaddr(a), serverID(serverAddr))
		e.waited(dhcpv4.MessageTypeDecline, victim, requested(a), serverID(serverAddr))
		e.waited(dhcpv4.MessageTypeRequest, victim, ciaddr(a), hostname("stolen"))
		e.waited(dhcpv4.MessageTypeRequest, victim, ciaddr(a), requested(a))
		e.waited(dhcpv4.MessageTypeDiscover, victim, opt(dhcpv4.OptionRapidCommit))
		e.waited(dhcpv4.MessageTypeRequest, victim, requested(b), serverID(serverAddr))
		e.waited(dhcpv4.MessageTypeRequest, victim, requested(ip(99)))
		e.waited(dhcpv4.MessageTypeRequest, victim, requested(free), serverID(serverAddr))
		e.waited(dhcpv4.MessageTypeRequest, victim, requested(a), serverID(ip(9)))
		silent("messages in the name of another client")
		e.waited(dhcpv4.MessageTypeRequest, mac(8), requested(ip(50)), hostname("www"))
		silent("a request for a reservation")
		e.from(nil, broadcast, dhcpv4.MessageTypeRequest, victim, requested(a), serverID(serverAddr))
		silent("a request in fragments")

		// A third client's REQUEST is refused as before, as far as the lease goes.
		e.waited(dhcpv4.MessageTypeRequest, mac(9), requested(a), serverID(serverAddr))
		e.want(e.receive(), "NAK address in use")
		silent("a request for a neighbour's address")

		// The settings have another address for the client by now.
		moved := e.cfg
		moved.Reservations = append(moved.Reservations, dhcpd.Reservation{MAC: victim, Addr: ip(60)})
		if err := e.srv.Reconfigure(moved); err != nil {
			t.Fatal(err)
		}
		e.waited(dhcpv4.MessageTypeRequest, victim, requested(a), serverID(serverAddr))
		silent("a request for an address that is not the client's any more")
	})
}

// A lease that another card got in a client's name is not that client's.
func TestRequestThatWaitedOfAnotherCard(t *testing.T) {
	a := ip(104)
	cfg := func() v4.Config {
		c := testConfig()
		c.Store = dhcpdtest.NewStore(dhcpd.Lease{Addr: a, MAC: mac(7), From: evil, State: dhcpd.StateBound, Expiry: time.Now().Add(time.Hour)})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		e.waited(dhcpv4.MessageTypeRequest, mac(7), requested(a), serverID(serverAddr))
		synctest.Wait()
		if n := len(e.wire.(simWire).link.Replies()); n != 0 || len(e.srv.Leases()) != 1 {
			t.Errorf("%d replies, leases %+v", n, e.srv.Leases())
		}
	})
}

// A lease that is on its way to the disk is told of by its own acknowledgement alone.
func TestRequestThatWaitedForTheDisk(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		a := e.discover(mac(7))
		gate := make(chan struct{})
		e.store.Gate = gate
		e.send(dhcpv4.MessageTypeRequest, mac(7), requested(a), serverID(serverAddr))
		e.send(dhcpv4.MessageTypeRequest, mac(8), requested(ip(105)))
		synctest.Wait()
		e.waited(dhcpv4.MessageTypeRequest, mac(7), requested(a), serverID(serverAddr))
		synctest.Wait()
		if n := len(e.wire.(simWire).link.Replies()); n != 0 {
			t.Errorf("%d replies before the lease is stored", n)
		}
		close(gate)
		e.want(e.receive(), fmt.Sprint("ACK ", a))
	})
}

// mute is a store after whose commits the server is killed: it has the leases, and no client is
// told.
type mute struct{ dhcpd.LeaseStore }

func (m mute) Commit(puts []dhcpd.Lease, deletes []netip.Addr) error {
	return errors.Join(errors.New("killed"), m.LeaseStore.Commit(puts, deletes))
}

// udhcpc sends three REQUESTs, and none but these. The first one's acknowledgement goes with the
// server, the others come while there is none: the next one answers them.
func TestUdhcpcOutlivesItsServer(t *testing.T) {
	const hw = "00:00:5e:00:53:46"
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := testConfig()
		store := dhcpdtest.NewStore()
		cfg.Store = mute{store}
		e := start(t, cfg, nil, v4.Open)
		guest := nstest.Guest(t, "br0", "g1", hw)
		path, _ := script(t)
		out := new(strings.Builder)
		client := guest.Command(t.Context(), "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "20", "-T", "5", "-s", path)
		client.Stdout, client.Stderr = out, out
		if err := client.Start(); err != nil {
			t.Fatal(err)
		}
		var had []dhcpd.Lease
		nstest.Eventually(t, dhcpdtest.ClientLimit, "the lease is stored", func() (err error) {
			if had, err = store.Load(); err == nil && len(had) != 1 {
				err = fmt.Errorf("stored is %+v", had)
			}
			return err
		})
		e.cfg.Left = dhcpdtest.Leave(t, e.srv, e.stop)
		one := 0
		nstest.Eventually(t, dhcpdtest.ClientLimit, "two requests wait", func() error {
			n := waiting(t)
			if one == 0 {
				one = n
			}
			if n == 0 || n < 2*one {
				return fmt.Errorf("%d bytes wait, the first %d", n, one)
			}
			return nil
		})
		e.cfg.Store = store
		next := start(t, e.cfg, nil, v4.Open)
		dhcpdtest.CloseAll(e.cfg.Left)
		if err := client.Wait(); err != nil {
			t.Fatalf("udhcpc: %v\n%s\ncounters %+v", err, out, next.srv.Stats())
		}
		if l := wantLease(t, next, hw, had[0].Hostname); l.Addr != had[0].Addr || !l.Expiry.Equal(had[0].Expiry) {
			t.Errorf("the lease is %+v, was %+v", l, had[0])
		}
	})
}

// waiting is how many bytes wait in the socket of DHCP, as proc_net_udp(5) tells it: those of
// the packets and of what the kernel keeps with them.
func waiting(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 5 || !strings.HasSuffix(f[1], ":0043") {
			continue
		}
		_, queue, _ := strings.Cut(f[4], ":")
		n, err := strconv.ParseUint(queue, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		return int(n)
	}
	t.Fatalf("no socket of DHCP in\n%s", text)
	return 0
}

// A neighbour that sends REQUESTs in fragments, whose frames nobody sees, has nobody told
// anything: the socket was empty before.
func TestRequestInFragments(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		w := newVethWire(t)
		other := newVethWireOf(t, "g2")
		e := start(t, testConfig(), w, v4.Open)
		a := e.lease(mac(7))
		payload := append(e.message(dhcpv4.MessageTypeRequest, mac(7), requested(a), serverID(serverAddr)).ToBytes(), make([]byte, 1400)...)
		for _, f := range fragments(clientFrame(evil, mac(1), ip(99), broadcast, payload), 80) {
			if _, err := other.conn.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]}); err != nil {
				t.Fatal(err)
			}
		}
		nstest.Eventually(t, dhcpdtest.ReplyLimit, "the message has come", func() error {
			if s := e.srv.Stats(); s.Ignored == 0 {
				return fmt.Errorf("%+v", s)
			}
			return nil
		})
		e.quiet()
	})
}
