package v6_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// waited sends a message that came while nobody served.
func (e *env6) waited(m *dhcpv6.Message) {
	e.link.DeliverWaited(m.ToBytes(), netip.AddrPortFrom(ether.LinkLocal(mac(7)), 546), groupAddr)
}

// again opens another server on what is stored.
func (e *env6) again() {
	e.t.Helper()
	if err := e.stop(); err != nil {
		e.t.Fatal(err)
	}
	e.link = dhcpdtest.NewSimLink(256)
	e.start(e.cfg, func(c v6.Config) (*v6.Server, error) { return v6.OpenOn(c, e.link) })
}

// A client whose Reply went with the server gets it by the Request that waited, for the time that
// is left. Nothing else that waited is answered for a lease, and none changes.
func TestRequestThatWaited6(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		lease := func(n byte) netip.Addr {
			e.link.DeliverFrom(mac(n), e.message(solicit6, n, iana6(1)).ToBytes(), netip.AddrPortFrom(ether.LinkLocal(mac(n)), 546), groupAddr)
			a := address(t, e.receive())
			e.link.DeliverFrom(mac(n), e.message(request6, n, ours, iana6(1, a), fqdn6("mine")).ToBytes(), netip.AddrPortFrom(ether.LinkLocal(mac(n)), 546), groupAddr)
			e.want(brief(e.receive()), "REPLY 1:"+a.String())
			return a
		}
		a, b := lease(7), lease(8)
		time.Sleep(v6.DefaultLeaseTime / 4)
		e.again()
		had := fmt.Sprint(e.srv.Leases())
		same := func(why string) {
			t.Helper()
			synctest.Wait()
			for len(e.link.Replies()) > 0 {
				t.Errorf("%s: %+v was sent", why, <-e.link.Replies())
			}
			if got := fmt.Sprint(e.srv.Leases()); got != had {
				t.Errorf("%s: leased is %s, want %s", why, got, had)
			}
		}
		e.waited(e.message(request6, 7, ours, iana6(1, a), fqdn6("other")))
		m := e.receive()
		e.want(brief(m), "REPLY 1:"+a.String())
		if left := m.Options.OneIANA().Options.OneAddress().ValidLifetime; left != v6.DefaultLeaseTime*3/4 {
			t.Errorf("the Reply is for %v, %v are left", left, v6.DefaultLeaseTime*3/4)
		}
		same("a Request that waited")

		e.waited(e.message(request6, 7, ours, iana6(1, b)))
		e.waited(e.message(request6, 7, ours, iana6(1, ip6(0x100)), iana6(1, ip6(0x101)), iana6(1, ip6(0x102)), iana6(1, ip6(0x103))))
		e.waited(e.message(request6, 7, ours, iana6(1)))
		e.waited(e.message(request6, 7, ours, iana6(1, a), iana6(2, ip6(0x105))))
		e.waited(e.message(renew6, 7, ours, iana6(1, a), fqdn6("stolen")))
		e.waited(e.message(dhcpv6.MessageTypeRebind, 7, iana6(1, a), fqdn6("stolen")))
		e.waited(e.message(dhcpv6.MessageTypeRelease, 7, ours, iana6(1, a)))
		e.waited(e.message(dhcpv6.MessageTypeDecline, 7, ours, iana6(1, a)))
		e.waited(e.message(solicit6, 7, raw6(dhcpv6.OptionRapidCommit), iana6(1, a)))
		same("other messages that waited")
		e.frame(nil, e.message(request6, 7, ours, iana6(1, a)))
		same("a Request in fragments")

		moved := e.cfg
		moved.Reservations = []dhcpd.Reservation{{DUID: duid(9).ToBytes(), Addr: a}}
		if err := e.srv.Reconfigure(moved); err != nil {
			t.Fatal(err)
		}
		e.waited(e.message(request6, 7, ours, iana6(1, a)))
		same("a Request for what is not the client's any more")
	})
}
