package v6_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

var (
	prefix6   = netip.MustParsePrefix("2001:db8:1::/64")
	server6   = netip.MustParseAddr("2001:db8:1::1")
	groupAddr = netip.MustParseAddr("ff02::1:2")
)

// mac is a client's hardware address, ip and ip6 an address of the link.
var mac, ip, ip6 = dhcpdtest.MAC, dhcpdtest.IP, dhcpdtest.IP6

// duid is the DUID-LL of a client.
func duid(n byte) dhcpv6.DUID {
	return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(n)}
}

// netip6 is an address.
func netip6(s string) netip.Addr { return netip.MustParseAddr(s) }

// testConfig6 is a pool of ten addresses, ::100 to ::109.
func testConfig6() v6.Config {
	return v6.Config{
		Settings: dhcpd.Settings{
			Network:   "test",
			Interface: "br0",
			MAC:       mac(1),
			Server:    server6,
			Prefix:    prefix6,
			DNS:       []netip.Addr{server6},
			Domain:    "vm.example",
			Ranges:    []dhcpd.Range{{Start: ip6(0x100), End: ip6(0x109)}},
			Store:     dhcpdtest.NewStore(),
			Logger:    slog.New(slog.DiscardHandler),
		},
	}
}

// env6 is a server that runs on a simulated link, and clients of it.
type env6 struct {
	t      *testing.T
	srv    *v6.Server
	cfg    v6.Config
	store  *dhcpdtest.Store
	link   *dhcpdtest.SimLink
	events *dhcpdtest.EventLog
	xid    byte
	stop   func() error
}

// simulated6 runs body over a simulated link with simulated time.
func simulated6(t *testing.T, cfg v6.Config, body func(t *testing.T, e *env6)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &env6{t: t, cfg: cfg, link: dhcpdtest.NewSimLink(256), events: new(dhcpdtest.EventLog)}
		e.store, _ = cfg.Store.(*dhcpdtest.Store)
		e.start(cfg, func(c v6.Config) (*v6.Server, error) { return v6.OpenOn(c, e.link) })
		body(t, e)
	})
}

// start runs a server until the test ends or e.stop is called.
func (e *env6) start(cfg v6.Config, open func(v6.Config) (*v6.Server, error)) {
	e.t.Helper()
	cfg.OnLease = e.events.Add
	srv, err := open(cfg)
	if err != nil {
		e.t.Fatalf("opening: %v", err)
	}
	e.srv = srv
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	e.stop = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ended, srv.Close())
	})
	e.t.Cleanup(func() {
		if err := e.stop(); err != nil {
			e.t.Errorf("running: %v", err)
		}
		if got := srv.Stats(); got.Panics != 0 || e.t.Failed() {
			e.t.Errorf("counters %+v", got)
		}
	})
}

// mod6 changes a message before it is sent.
type mod6 = func(m *dhcpv6.Message)

// opt6 adds an option.
func opt6(o dhcpv6.Option) mod6 { return func(m *dhcpv6.Message) { m.AddOption(o) } }

// raw6 adds an option with any value.
func raw6(code dhcpv6.OptionCode, value ...byte) mod6 {
	return opt6(&dhcpv6.OptionGeneric{OptionCode: code, OptionData: value})
}

// iana6 adds an IA_NA with addresses.
func iana6(iaid byte, addrs ...netip.Addr) mod6 {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{3: iaid}}
	for _, a := range addrs {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice()})
	}
	return opt6(ia)
}

// ours adds the server's identifier.
func ours(m *dhcpv6.Message) {
	m.AddOption(dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac(1)}))
}

func fqdn6(name string) mod6 {
	value := []byte{0}
	for label := range strings.SplitSeq(name, ".") {
		value = append(append(value, byte(len(label))), label...)
	}
	return raw6(dhcpv6.OptionFQDN, append(value, 0)...)
}

// message is a message of client n.
func (e *env6) message(typ dhcpv6.MessageType, n byte, mods ...mod6) *dhcpv6.Message {
	e.xid++
	m := &dhcpv6.Message{MessageType: typ, TransactionID: dhcpv6.TransactionID{1, 2, e.xid}}
	m.AddOption(dhcpv6.OptClientID(duid(n)))
	for _, f := range mods {
		f(m)
	}
	return m
}

// send sends a message to the servers' group, with an address that tells nothing.
func (e *env6) send(m *dhcpv6.Message) {
	e.link.Deliver(m.ToBytes(), netip.MustParseAddrPort("[fe80::99]:546"), groupAddr)
}

// receive waits for the next reply.
func (e *env6) receive() *dhcpv6.Message {
	e.t.Helper()
	select {
	case s := <-e.link.Replies():
		m, err := dhcpv6.MessageFromBytes(s.Payload)
		if err != nil {
			e.t.Fatalf("parsing a reply: %v", err)
		}
		if m.TransactionID[2] != e.xid {
			e.t.Fatalf("the next reply is for another transaction: %v", m.Summary())
		}
		return m
	case <-time.After(dhcpdtest.ReplyLimit):
		e.t.Fatal("no reply")
		return nil
	}
}

// ask sends a message and says what the reply is, in short.
func (e *env6) ask(typ dhcpv6.MessageType, n byte, mods ...mod6) string {
	e.t.Helper()
	e.send(e.message(typ, n, mods...))
	return brief(e.receive())
}

// want fails the test unless got is it.
func (e *env6) want(got, want string) {
	e.t.Helper()
	if got != want {
		e.t.Errorf("got  %s\nwant %s", got, want)
	}
}

// quiet fails the test if the server answers.
func (e *env6) quiet() {
	e.t.Helper()
	synctest.Wait()
	select {
	case s := <-e.link.Replies():
		e.t.Errorf("the server was to be silent, sent %x", s.Payload)
	default:
	}
}

// brief is a reply in short: its type, its status, and what its IAs have.
func brief(m *dhcpv6.Message) string {
	s := m.Type().String()
	if st := m.Options.Status(); st != nil {
		s += " " + st.StatusCode.String()
	}
	for _, ia := range m.Options.IANA() {
		s += fmt.Sprintf(" %d:", ia.IaId[3])
		if st := ia.Options.Status(); st != nil {
			s += st.StatusCode.String()
		}
		for i, a := range ia.Options.Addresses() {
			if i > 0 {
				s += ","
			}
			addr, _ := netip.AddrFromSlice(a.IPv6Addr)
			s += addr.String()
			if a.ValidLifetime == 0 {
				s += "(gone)"
			}
		}
	}
	for _, ia := range m.Options.IAPD() {
		s += fmt.Sprintf(" pd%d:%v", ia.IaId[3], ia.Options.Status().StatusCode)
	}
	return s
}

// advertised is the address that a Solicit is offered.
func (e *env6) advertised(n byte, mods ...mod6) netip.Addr {
	e.t.Helper()
	e.send(e.message(dhcpv6.MessageTypeSolicit, n, append([]mod6{iana6(1)}, mods...)...))
	return address(e.t, e.receive())
}

// address is the one that a reply gives.
func address(t *testing.T, m *dhcpv6.Message) netip.Addr {
	t.Helper()
	ia := m.Options.OneIANA()
	if ia == nil || ia.Options.OneAddress() == nil {
		t.Fatalf("got %s, want an address", brief(m))
	}
	a, _ := netip.AddrFromSlice(ia.Options.OneAddress().IPv6Addr)
	return a
}

// lease takes a client from nothing to a lease.
func (e *env6) lease(n byte, mods ...mod6) netip.Addr {
	e.t.Helper()
	a := e.advertised(n, mods...)
	e.want(e.ask(dhcpv6.MessageTypeRequest, n, append([]mod6{ours, iana6(1, a)}, mods...)...), fmt.Sprintf("REPLY 1:%v", a))
	return a
}
