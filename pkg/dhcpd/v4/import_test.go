package v4_test

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// A lease of another server is its client's, as far as nobody stands in the way.
func TestImport(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(9), Addr: ip(105), Name: "nine"})
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		a := e.lease(mac(2))
		soon, past := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
		free := ip(100)
		if free == a {
			free = ip(101)
		}
		lease := func(n byte, addr netip.Addr, name string, end time.Time) dhcpd.Lease {
			return dhcpd.Lease{Addr: addr, MAC: mac(n), Hostname: name, Expiry: end, State: dhcpd.StateBound}
		}
		e.events.Take()
		taken, refused, err := e.srv.Import(t.Context(), []dhcpd.Lease{
			lease(3, free, "three", soon),
			lease(4, a, "", soon),           // mac(2) has it
			lease(5, ip(105), "", soon),     // reserved
			lease(6, ip(50), "", soon),      // in no range
			lease(7, ip(107), "", past),     // over
			lease(8, ip(108), "nine", soon), // the name is reserved
			lease(2, ip(109), "", soon),     // it has another one
		})
		if taken != 3 || err != nil {
			t.Errorf("%d leases were taken (%v), want 3", taken, err)
		}
		var why []string
		for _, err := range refused {
			why = append(why, err.Error())
		}
		want := []string{
			a.String() + ": address in use", "192.0.2.105: address reserved", "192.0.2.50: address not available",
			"192.0.2.109: its client has " + a.String(),
		}
		if diff := cmp.Diff(want, why); diff != "" {
			t.Errorf("refused (-want +got):\n%s", diff)
		}
		synctest.Wait()
		if got := e.events.Take(); len(got) != 2 {
			t.Errorf("events %q, want those of the two running leases", got)
		}
		for _, c := range []struct {
			addr netip.Addr
			name string
		}{{free, "three"}, {ip(108), ""}} {
			if l, ok := e.store.Lease(t, c.addr); !ok || l.Hostname != c.name || l.State != dhcpd.StateBound {
				t.Errorf("stored of %v is %+v, want the name %q", c.addr, l, c.name)
			}
		}
		e.want(e.renew(mac(3), free), "ACK "+free.String())
		e.want(e.initReboot(mac(4), free), "NAK address in use")
		if got := e.discover(mac(7)); got != ip(107) {
			t.Errorf("a client whose lease is over is offered %v, want the address that it had", got)
		}
		// The same file again changes nothing but for those renewed here.
		taken, refused, err = e.srv.Import(t.Context(), []dhcpd.Lease{lease(3, free, "three", soon.Add(-time.Minute))})
		if taken != 0 || len(refused) != 1 || err != nil {
			t.Errorf("the second time: %d taken, %v refused (%v)", taken, refused, err)
		}
	})
}

// A card gets an address for ever without asking, and the same one again; of other hosts' blocks none.
func TestLend(t *testing.T) {
	l := dhcpdtest.NewLender()
	simulated(t, lentBy(l), func(t *testing.T, e *env) {
		if _, err := e.srv.Lend(t.Context(), dhcpd.HWAddr(mac(2))); !errors.Is(err, dhcpd.ErrNoneFree) || l.Wanted() == 0 {
			t.Errorf("without a block: %v, and %d ask for one", err, l.Wanted())
		}
		l.Block("192.0.2.104/31", ip(104))
		if err := e.srv.Reconfigure(lentBy(l)()); err != nil {
			t.Fatal(err)
		}
		e.events.Take()
		for range 2 {
			if a, err := e.srv.Lend(t.Context(), dhcpd.HWAddr(mac(2))); err != nil || a != ip(105) {
				t.Errorf("got %v, %v", a, err)
			}
		}
		synctest.Wait()
		if held := e.srv.Leases(); len(held) != 1 || !held[0].Expiry.IsZero() || l.Holds(ip(105)) != dhcpd.HWAddr(mac(2)) || len(e.events.Take()) != 1 {
			t.Errorf("leases %+v, and others know %v", held, l.Holds(ip(105)))
		}
		if _, err := e.srv.Lend(t.Context(), dhcpd.HWAddr(mac(3))); !errors.Is(err, dhcpd.ErrNoneFree) {
			t.Errorf("all are given, and another card gets one: %v", err)
		}
		e.srv.DropDynamic(mac(2))
		synctest.Wait()
		if a := e.lease(mac(3)); a != ip(105) {
			t.Errorf("a client gets %v, once it is given back", a)
		}
	})
}
