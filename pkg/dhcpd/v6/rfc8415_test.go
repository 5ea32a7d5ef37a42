package v6_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// Message types by their short names.
const (
	solicit6 = dhcpv6.MessageTypeSolicit
	request6 = dhcpv6.MessageTypeRequest
	confirm6 = dhcpv6.MessageTypeConfirm
	renew6   = dhcpv6.MessageTypeRenew
	rebind6  = dhcpv6.MessageTypeRebind
	release6 = dhcpv6.MessageTypeRelease
	decline6 = dhcpv6.MessageTypeDecline
	inform6  = dhcpv6.MessageTypeInformationRequest
)

// RFC 8415, section 5: Solicit, Advertise, Request, Reply, and the life after.
func TestRFC8415Section5FourWay(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		a := e.advertised(2)
		if len(e.store.Addrs()) != 0 {
			t.Errorf("an Advertise made a lease: %v", e.store.Addrs())
		}
		e.want(e.ask(request6, 2, ours, iana6(1, a), fqdn6("guest.vm.example")), fmt.Sprint("REPLY 1:", a))
		l, _ := e.store.Lease(t, a)
		if !bytes.Equal(l.DUID, duid(2).ToBytes()) || l.IAID != 1 || l.Hostname != "guest" || l.MAC.String() != mac(2).String() {
			t.Errorf("stored %+v", l)
		}
		if d := time.Until(l.Expiry); d != v6.DefaultLeaseTime {
			t.Errorf("the lease lasts %v", d)
		}
		e.want(e.ask(renew6, 2, ours, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
		if l, _ := e.store.Lease(t, a); l.Hostname != "guest" {
			t.Errorf("the name is lost: %+v", l)
		}
		e.want(e.ask(rebind6, 2, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
		e.want(e.ask(release6, 2, ours, iana6(1, a)), "REPLY Success")
		want := []string{
			fmt.Sprintf("bound %v %v", a, mac(2)), fmt.Sprintf("renewed %v %v", a, mac(2)),
			fmt.Sprintf("renewed %v %v", a, mac(2)), fmt.Sprintf("released %v %v", a, mac(2)),
		}
		if diff := cmp.Diff(want, e.events.Take()); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
		if again := e.lease(2); again != a {
			t.Errorf("after the release the client gets %v, had %v", again, a)
		}
	})
}

// RFC 8415, section 16: what is dropped, by message type.
func TestRFC8415Section16Validation(t *testing.T) {
	theirs := opt6(dhcpv6.OptServerID(duid(9)))
	cut := raw6(dhcpv6.OptionIANA, 1, 2, 3)
	for _, c := range []struct {
		name    string
		typ     dhcpv6.MessageType
		mods    []mod6
		unicast bool
		ignored bool // otherwise malformed
	}{
		{"Solicit with a server identifier", solicit6, []mod6{ours}, false, false},
		{"Request without one", request6, []mod6{iana6(1)}, false, false},
		{"Request for another server", request6, []mod6{theirs, iana6(1)}, false, true},
		{"Renew for another server", renew6, []mod6{theirs, iana6(1)}, false, true},
		{"Rebind with a server identifier", rebind6, []mod6{ours, iana6(1)}, false, false},
		{"Confirm with a server identifier", confirm6, []mod6{ours, iana6(1, ip6(9))}, false, false},
		{"Confirm without an address", confirm6, []mod6{iana6(1)}, false, true},
		{"unicast Solicit", solicit6, []mod6{iana6(1)}, true, false},
		{"unicast Rebind", rebind6, []mod6{iana6(1)}, true, false},
		{"Information-request with an IA", inform6, []mod6{iana6(1)}, false, false},
		{"Information-request for another server", inform6, []mod6{theirs}, false, true},
		{"IA that is cut off", solicit6, []mod6{cut}, false, false},
		{"Advertise", dhcpv6.MessageTypeAdvertise, []mod6{ours}, false, false},
		{"unknown type", 200, nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
				dst := groupAddr
				if c.unicast {
					dst = server6
				}
				e.link.Deliver(e.message(c.typ, 2, c.mods...).ToBytes(), netip.MustParseAddrPort("[fe80::2]:546"), dst)
				e.quiet()
				if got := e.srv.Stats(); (got.Ignored == 1) != c.ignored || got.Malformed+got.Ignored != 1 {
					t.Errorf("counted %+v", got)
				}
			})
		})
	}
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		good := e.message(solicit6, 2, iana6(1)).ToBytes()
		for i, data := range [][]byte{nil, good[:3], good[:len(good)-1], append(bytes.Clone(good), 0, 6, 0)} {
			e.link.Deliver(data, netip.MustParseAddrPort("[fe80::2]:546"), groupAddr)
			e.quiet()
			if got := e.srv.Stats().Malformed; got != uint64(i+1) {
				t.Errorf("message %d: %d are malformed", i, got)
			}
		}
		e.link.Deliver(good, netip.MustParseAddrPort("[2001:db8:ffff::1]:546"), groupAddr)
		e.quiet() // a reply would leave the link
	})
}

// RFC 8415, section 18.3: unicast is answered with UseMulticast alone.
func TestRFC8415Section183UseMulticast(t *testing.T) {
	simulated6(t, testConfig6(), func(_ *testing.T, e *env6) {
		for _, typ := range []dhcpv6.MessageType{request6, renew6, release6, decline6} {
			e.link.Deliver(e.message(typ, 2, ours, iana6(1, ip6(0x100))).ToBytes(), netip.MustParseAddrPort("[fe80::2]:546"), server6)
			e.want(brief(e.receive()), "REPLY UseMulticast")
		}
	})
}

// RFC 8415, section 18.3.1: rapid commit.
func TestRFC8415Section1831RapidCommit(t *testing.T) {
	cfg := testConfig6()
	cfg.Ranges[0].End = cfg.Ranges[0].Start
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		rapid := raw6(dhcpv6.OptionRapidCommit)
		e.send(e.message(solicit6, 2, iana6(1), rapid))
		r := e.receive()
		e.want(brief(r), "REPLY 1:2001:db8:1::100")
		if r.GetOneOption(dhcpv6.OptionRapidCommit) == nil || len(e.store.Addrs()) != 1 {
			t.Errorf("got %v, stored %v", r.Summary(), e.store.Addrs())
		}
		e.want(e.ask(solicit6, 3, iana6(1), rapid), "ADVERTISE 1:NoAddrsAvail")
	})
}

// RFC 8415, section 18.3.2: Request.
func TestRFC8415Section1832Request(t *testing.T) {
	simulated6(t, testConfig6(), func(_ *testing.T, e *env6) {
		a := e.lease(2)
		free := ip6(0x100)
		if a == free {
			free = ip6(0x101)
		}
		e.want(e.ask(request6, 3, ours, iana6(1, netip.MustParseAddr("2001:db8:2::1"))), "REPLY 1:NotOnLink")
		e.want(e.ask(request6, 3, ours, iana6(1, free)), fmt.Sprint("REPLY 1:", free)) // never advertised
		e.send(e.message(request6, 4, ours, iana6(1, a)))
		if got := address(e.t, e.receive()); got == a || got == free {
			e.t.Errorf("%v was given to two clients", got)
		}
		pd := opt6(&dhcpv6.OptIAPD{IaId: [4]byte{3: 7}})
		e.want(e.ask(request6, 3, ours, iana6(1, free), pd), fmt.Sprintf("REPLY 1:%v pd7:NoPrefixAvail", free))
		e.want(e.ask(solicit6, 3, pd), "ADVERTISE pd7:NoPrefixAvail")
	})
}

// Several interfaces of a client have an address each.
func TestRFC8415Section12SeveralIAs(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		e.send(e.message(request6, 2, ours, iana6(1), iana6(2), iana6(3)))
		r := e.receive()
		seen := make(map[string]bool)
		for _, ia := range r.Options.IANA() {
			seen[ia.Options.OneAddress().IPv6Addr.String()] = true
		}
		if len(seen) != 3 || len(e.store.Commits) != 1 {
			t.Errorf("got %s in %v commits, want three addresses in one", brief(r), e.store.Commits)
		}
		var many []mod6
		for n := range byte(200) {
			many = append(many, iana6(n))
		}
		e.send(e.message(solicit6, 3, many...))
		if n := len(e.receive().Options.IANA()); n != 8 {
			t.Errorf("%d of 200 IAs are answered, want 8", n)
		}
	})
}

// RFC 8415, sections 18.3.4 and 18.3.5: Renew and Rebind.
func TestRFC8415Section1834RenewRebind(t *testing.T) {
	simulated6(t, testConfig6(), func(_ *testing.T, e *env6) {
		a := e.lease(2)
		free := ip6(0x100)
		if a == free {
			free = ip6(0x101)
		}
		e.want(e.ask(renew6, 3, ours, iana6(1, a)), "REPLY 1:NoBinding")
		e.want(e.ask(renew6, 3, ours, iana6(1)), "REPLY 1:NoBinding")
		e.want(e.ask(rebind6, 3, iana6(1, a)), fmt.Sprintf("REPLY 1:%v(gone)", a))
		e.want(e.ask(renew6, 3, ours, iana6(1, netip.MustParseAddr("2001:db8:2::1"))), "REPLY 1:2001:db8:2::1(gone)")
		e.want(e.ask(renew6, 3, ours, iana6(1, free)), fmt.Sprint("REPLY 1:", free)) // a lost lease is made again
		e.want(e.ask(renew6, 2, ours, iana6(1, a, ip6(0x50))), fmt.Sprintf("REPLY 1:%v,%v(gone)", a, ip6(0x50)))
		e.want(e.ask(renew6, 2, ours, iana6(1)), fmt.Sprint("REPLY 1:", a))
	})
}

// A client moves to its new reservation when it renews.
func TestRenewMovesToReservation(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		a := e.lease(2)
		cfg := e.cfg
		cfg.Reservations = []dhcpd.Reservation{{DUID: duid(2).ToBytes(), Name: "two", Addr: ip6(0x20)}}
		if err := e.srv.Reconfigure(cfg); err != nil {
			t.Fatal(err)
		}
		e.want(e.ask(renew6, 2, ours, iana6(1, a)), fmt.Sprintf("REPLY 1:%v,%v(gone)", ip6(0x20), a))
		if got := e.srv.Leases(); len(got) != 1 || got[0].Addr != ip6(0x20) || got[0].Hostname != "two" {
			t.Errorf("leases are %+v", got)
		}
		cfg.Interface = "br1"
		if e.srv.Reconfigure(cfg) == nil {
			t.Error("moved to another interface")
		}
	})
}

// RFC 8415, section 18.3.3: Confirm.
func TestRFC8415Section1833Confirm(t *testing.T) {
	simulated6(t, testConfig6(), func(_ *testing.T, e *env6) {
		e.want(e.ask(confirm6, 2, iana6(1, ip6(0x100), ip6(0x900))), "REPLY Success")
		e.want(e.ask(confirm6, 2, iana6(1, ip6(0x100)), iana6(2, netip.MustParseAddr("2001:db8:2::1"))), "REPLY NotOnLink")
	})
}

// RFC 8415, sections 18.3.7 and 18.3.8: Release and Decline.
func TestRFC8415Section1837ReleaseDecline(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		a := e.lease(2)
		e.want(e.ask(release6, 3, ours, iana6(1, a)), "REPLY Success 1:NoBinding") // not its own
		e.want(e.ask(decline6, 3, ours, iana6(1, a)), "REPLY Success 1:NoBinding")
		e.want(e.ask(decline6, 2, ours, iana6(1, a)), "REPLY Success")
		if n := len(e.srv.Leases()); n != 0 {
			t.Errorf("%d leases, want none", n)
		}
		if got := e.advertised(2, func(m *dhcpv6.Message) { m.Options.OneIANA().Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()}) }); got == a {
			t.Error("the declined address was offered")
		}
		time.Sleep(dhcpd.DeclineHold + 2*time.Second)
		e.want(e.ask(request6, 3, ours, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
	})
}

// RFC 8415, section 18.3.6: options without an address.
func TestRFC8415Section1836InformationRequest(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		m := e.message(inform6, 2)
		m.Options.Del(dhcpv6.OptionClientID)
		e.send(m)
		r := e.receive()
		dns := r.Options.DNS()
		if len(dns) != 1 || dns[0].String() != server6.String() || r.Options.DomainSearchList().String() != "[vm.example]" ||
			r.Options.InformationRefreshTime(0) != 24*time.Hour || r.Options.ClientID() != nil {
			t.Errorf("got %v", r.LongString(0))
		}
		e.send(e.message(inform6, 2, opt6(dhcpv6.OptRequestedOption(dhcpv6.OptionDomainSearchList))))
		if r := e.receive(); len(r.Options.DNS()) != 0 || r.Options.DomainSearchList() == nil {
			t.Errorf("the option request is not honoured: %v", r.LongString(0))
		}
	})
}

// RFC 8415, section 21.6: lifetimes, T1 and T2.
func TestRFC8415Section216Lifetimes(t *testing.T) {
	cfg := testConfig6()
	cfg.Ranges[0].LeaseTime = 10 * time.Minute
	cfg.Reservations = []dhcpd.Reservation{
		{DUID: duid(8).ToBytes(), Addr: ip6(8)},
		{DUID: duid(9).ToBytes(), Addr: ip6(9), LeaseTime: dhcpd.Infinite},
	}
	hint := func(preferred, valid time.Duration) mod6 {
		return func(m *dhcpv6.Message) {
			m.Options.OneIANA().Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.IPv6unspecified, PreferredLifetime: preferred, ValidLifetime: valid})
		}
	}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		for _, c := range []struct {
			name string
			n    byte
			mods []mod6
			want string // T1, T2, preferred, valid
		}{
			{"of the range", 2, nil, "5m0s 8m45s 10m0s 10m0s"},
			{"shorter", 2, []mod6{hint(200*time.Second, 300*time.Second)}, "1m40s 2m55s 3m20s 5m0s"},
			{"below the floor", 2, []mod6{hint(time.Second, time.Second)}, "1m0s 1m45s 2m0s 2m0s"},
			{"longer", 2, []mod6{hint(time.Hour, 2*time.Hour)}, "5m0s 8m45s 10m0s 10m0s"},
			{"default", 8, nil, "12h0m0s 21h0m0s 24h0m0s 24h0m0s"},
			{"infinite", 9, nil, "1193046h28m15s 1193046h28m15s 1193046h28m15s 1193046h28m15s"},
		} {
			e.send(e.message(solicit6, c.n, append([]mod6{iana6(1)}, c.mods...)...))
			ia := e.receive().Options.OneIANA()
			a := ia.Options.OneAddress()
			if got := fmt.Sprint(ia.T1, " ", ia.T2, " ", a.PreferredLifetime, " ", a.ValidLifetime); got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		}
	})
}

// RFC 8415, section 19: through relays and back.
func TestRFC8415Section19Relay(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		inner := e.message(solicit6, 2, iana6(1))
		relay, err := dhcpv6.EncapsulateRelay(inner, dhcpv6.MessageTypeRelayForward, net.IPv6unspecified, ether.LinkLocal(mac(2)).AsSlice())
		if err != nil {
			t.Fatal(err)
		}
		relay.AddOption(dhcpv6.OptInterfaceID([]byte("port7")))
		relay.AddOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientLinkLayerAddr, OptionData: append([]byte{0, 1}, mac(0x77)...)})
		outer, err := dhcpv6.EncapsulateRelay(relay, dhcpv6.MessageTypeRelayForward, prefix6.Addr().AsSlice(), ether.LinkLocal(mac(3)).AsSlice())
		if err != nil {
			t.Fatal(err)
		}
		e.link.Deliver(outer.ToBytes(), netip.MustParseAddrPort("[fe80::3]:547"), groupAddr)
		s := <-e.link.Replies()
		if s.Dst.String() != "[fe80::3]:547" {
			t.Errorf("sent to %v", s.Dst)
		}
		r, err := dhcpv6.RelayMessageFromBytes(s.Payload)
		if err != nil {
			t.Fatal(err)
		}
		next := r.Options.RelayMessage().(*dhcpv6.RelayMessage)
		got, err := r.GetInnerMessage()
		if err != nil || got.Type() != dhcpv6.MessageTypeAdvertise || string(next.Options.InterfaceID()) != "port7" || r.HopCount != 1 {
			t.Errorf("got %v, %v", r.Summary(), err)
		}
		outer.LinkAddr = netip.MustParseAddr("2001:db8:2::1").AsSlice()
		e.link.Deliver(outer.ToBytes(), netip.MustParseAddrPort("[fe80::3]:547"), groupAddr)
		e.quiet()
	})
}

// Reservations by DUID, by hardware address and by name.
func TestReservations6(t *testing.T) {
	uuid := []byte{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	cfg := testConfig6()
	cfg.Reservations = []dhcpd.Reservation{
		{DUID: uuid, Addr: ip6(0x20), Name: "by-duid"},
		{MAC: mac(3), Addr: ip6(0x30), Name: "by-mac"},
		{Name: "by-name", Addr: ip6(0x40)},
		{MAC: mac(3), Addr: ip6(0x31)}, // a second one of the client is ignored
	}
	as := func(id []byte) mod6 {
		return func(m *dhcpv6.Message) {
			m.UpdateOption(&dhcpv6.OptionGeneric{OptionCode: dhcpv6.OptionClientID, OptionData: id})
		}
	}
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		for _, c := range []struct {
			name string
			n    byte
			mods []mod6
			want netip.Addr
		}{
			{"DUID", 2, []mod6{as(uuid)}, ip6(0x20)},
			{"MAC in DUID-LL", 3, nil, ip6(0x30)},
			{"MAC in DUID-LLT, another system", 3, []mod6{as(append([]byte{0, 1, 0, 1, 1, 2, 3, 4}, mac(3)...))}, ip6(0x30)},
			{"name", 4, []mod6{fqdn6("By-Name.vm.example")}, ip6(0x40)},
		} {
			if got := e.lease(c.n, c.mods...); got != c.want {
				t.Errorf("%s: got %v, want %v", c.name, got, c.want)
			}
		}
		m := e.message(solicit6, 2, as(append([]byte{0, 2}, "vendor"...)), iana6(1))
		e.link.Deliver(m.ToBytes(), netip.AddrPortFrom(ether.LinkLocal(mac(3)), 546), groupAddr)
		if got := address(t, e.receive()); got != ip6(0x30) {
			t.Errorf("MAC in the source address: got %v", got)
		}
		// A second interface of a reserved client gets another address, under its name.
		e.send(e.message(request6, 2, as(uuid), ours, iana6(2, ip6(0x20))))
		second := address(t, e.receive())
		if l, _ := e.store.Lease(t, second); second == ip6(0x20) || l.Hostname != "by-duid" {
			t.Errorf("a second interface is %+v", l)
		}
		for n := byte(10); n < 19; n++ {
			e.lease(n)
		}
		e.want(e.ask(solicit6, 30, iana6(1)), "ADVERTISE 1:NoAddrsAvail")
	})
}

// RFC 4704: the client's name comes back.
func TestRFC4704FQDN(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		for _, c := range []struct {
			mod  mod6
			want string // value of the option in hex, empty for none
		}{
			{fqdn6("guest"), hex.EncodeToString([]byte("\x03\x05guest\x02vm\x07example\x00"))},
			{fqdn6("guest.other.example"), hex.EncodeToString([]byte("\x03\x05guest\x02vm\x07example\x00"))},
			{raw6(dhcpv6.OptionFQDN, 1, 2, 'g', '1'), hex.EncodeToString([]byte("\x01\x02g1\x02vm\x07example\x00"))}, // partial
			{fqdn6("bad name"), ""},
			{raw6(dhcpv6.OptionFQDN), ""},
			{raw6(dhcpv6.OptionFQDN, 0, 63, 'x'), ""},
		} {
			e.send(e.message(request6, 2, ours, iana6(1), c.mod))
			got := ""
			if o := e.receive().GetOneOption(dhcpv6.OptionFQDN); o != nil {
				got = hex.EncodeToString(o.ToBytes())
			}
			e.want(got, c.want)
		}
	})
}

// Leases of both families live in one store, over restarts.
func TestRestart6(t *testing.T) {
	cfg := testConfig6()
	other := dhcpd.Lease{Addr: ip(100), MAC: mac(2), State: dhcpd.StateBound}
	gone := dhcpd.Lease{Addr: netip.MustParseAddr("2001:db8:2::1"), DUID: duid(5).ToBytes(), State: dhcpd.StateReleased}
	cfg.Store = dhcpdtest.NewStore(other, gone)
	var a netip.Addr
	simulated6(t, cfg, func(_ *testing.T, e *env6) { a = e.lease(2) })
	simulated6(t, cfg, func(t *testing.T, e *env6) {
		if got := e.srv.Leases(); len(got) != 1 || got[0].Addr != a {
			t.Errorf("leases after the restart are %+v", got)
		}
		e.want(e.ask(renew6, 2, ours, iana6(1, a)), fmt.Sprint("REPLY 1:", a))
		want := []netip.Addr{ip(100), a}
		if got := e.store.Addrs(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("stored are %v, want %v", got, want)
		}
	})
	// The server of the other family starts on the same store.
	four := v4.Config{Settings: dhcpd.Settings{Network: "test", Interface: "br0", MAC: mac(1), Server: ip(1), Prefix: netip.PrefixFrom(ip(0), 24), Store: cfg.Store}}
	four.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(109)}}
	if _, _, err := v4.Import(four, nil); err != nil {
		t.Fatal(err)
	}
	if got := cfg.Store.(*dhcpdtest.Store).Addrs(); len(got) != 2 {
		t.Errorf("the other family's lease was dropped: %v", got)
	}
}

// A range of any size costs nothing until it is used, and the same client gets
// the same address from an empty store.
func TestHugeRange(t *testing.T) {
	cfg := testConfig6()
	cfg.Ranges = []dhcpd.Range{
		{Start: ip6(2), End: netip.MustParseAddr("2001:db8:1:0:ffff:ffff:ffff:fffe")},
		{Start: ip6(2), End: ip6(9)},
	}
	var first netip.Addr
	for range 2 {
		cfg.Store = dhcpdtest.NewStore()
		simulated6(t, cfg, func(t *testing.T, e *env6) {
			seen := make(map[netip.Addr]bool)
			for n := byte(2); n < 50; n++ {
				seen[e.lease(n)] = true
			}
			if len(seen) != 48 {
				t.Errorf("%d addresses for 48 clients", len(seen))
			}
			a := e.lease(2)
			if first.IsValid() && a != first {
				t.Errorf("got %v, had %v before the leases were lost", a, first)
			}
			first = a
			last := cfg.Ranges[0].End
			e.want(e.ask(request6, 60, ours, iana6(1, last)), fmt.Sprint("REPLY 1:", last))
		})
	}
}

// FuzzPacket6: no bytes make the handler panic, answer more than once or answer
// with what does not parse.
func FuzzPacket6(f *testing.F) {
	var e env6
	for _, m := range []*dhcpv6.Message{
		e.message(solicit6, 2, iana6(1), fqdn6("guest"), raw6(dhcpv6.OptionRapidCommit)),
		e.message(solicit6, 2, iana6(1), opt6(&dhcpv6.OptIAPD{})),
		e.message(request6, 2, ours, iana6(1, ip6(0x100))),
		e.message(renew6, 2, ours, iana6(1, ip6(0x100))),
		e.message(release6, 2, ours, iana6(1, ip6(0x100))),
		e.message(decline6, 2, ours, iana6(1, ip6(0x100))),
		e.message(confirm6, 2, iana6(1, ip6(0x100))),
		e.message(inform6, 2, opt6(dhcpv6.OptRequestedOption(23, 24))),
	} {
		f.Add(m.ToBytes(), false)
		f.Add(m.ToBytes(), true)
		relay, err := dhcpv6.EncapsulateRelay(m, dhcpv6.MessageTypeRelayForward, net.IPv6unspecified, ether.LinkLocal(mac(2)).AsSlice())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(relay.ToBytes(), false)
	}
	f.Fuzz(func(t *testing.T, data []byte, unicast bool) {
		link := dhcpdtest.NewSimLink(4)
		srv, err := v6.OpenOn(testConfig6(), link)
		if err != nil {
			t.Fatal(err)
		}
		dst := groupAddr
		if unicast {
			dst = server6
		}
		replies := srv.Handle(link, data, netip.MustParseAddrPort("[fe80::2]:546"), dst, time.Now())
		if len(replies) > 1 || srv.Stats().Panics != 0 {
			t.Errorf("%d replies, counters %+v", len(replies), srv.Stats())
		}
		for _, s := range replies {
			if !wellFormed6(s.Payload) {
				t.Errorf("the reply is %x", s.Payload)
			}
		}
	})
}

// wellFormed6 reports whether a reply is a header and options. The library refuses
// odd DUIDs, which we give back as they came.
func wellFormed6(b []byte) bool {
	head := 4
	if len(b) > 0 && b[0] == byte(dhcpv6.MessageTypeRelayReply) {
		head = 34
	}
	if len(b) < head || len(b) > 1452 {
		return false
	}
	for b = b[head:]; len(b) >= 4; {
		n := 4 + int(b[2])<<8 + int(b[3])
		if n > len(b) {
			return false
		}
		b = b[n:]
	}
	return len(b) == 0
}
