package v6_test

import (
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// flood is how many clients a hostile guest plays.
const flood = 5000

func TestFlood6(t *testing.T) {
	cfg := testConfig6()
	cfg.Reservations = []dhcpd.Reservation{{DUID: duid(0x20).ToBytes(), Addr: ip6(0x20)}}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		for n := range flood {
			id := raw6(dhcpv6.OptionClientID, 0, 2, 1, byte(n>>8), byte(n))
			m := e.message(solicit6, 2, iana6(byte(n)), raw6(dhcpv6.OptionRapidCommit))
			m.Options.Del(dhcpv6.OptionClientID)
			id(m)
			e.send(m)
			if n%64 == 0 {
				e.drain()
			}
		}
		e.drain()
		if p := e.srv.Stats().Pool; p.Bound+p.Offered+p.Declined+p.Former > 10 {
			t.Errorf("the server knows more addresses than the pool has: %+v", p)
		}
		if got := e.lease(0x20); got != ip6(0x20) {
			t.Errorf("the reserved client got %v", got)
		}
		if got := e.srv.Stats(); got.Exhausted == 0 || len(e.srv.Leases()) != 11 {
			t.Errorf("counted %+v", got)
		}
	})
}

// drain takes the replies that are there once the server is idle.
func (e *env6) drain() {
	e.t.Helper()
	time.Sleep(time.Millisecond)
	for len(e.link.Replies()) > 0 {
		<-e.link.Replies()
	}
}

// One client that sends without end has its share of the server's time, and others
// theirs.
func TestClientIsLimited(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		for range 1000 {
			e.send(e.message(solicit6, 2, iana6(1)))
			if len(e.link.Replies()) > 32 {
				e.drain()
			}
		}
		e.drain()
		if got := e.srv.Stats(); got.Limited < 900 {
			t.Errorf("counted %+v", got)
		}
		e.lease(3)
	})
}
