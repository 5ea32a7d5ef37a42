package v4_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// The link that all tests share.
var (
	serverAddr = netip.MustParseAddr("192.0.2.1")
	prefix     = netip.MustParsePrefix("192.0.2.0/24")
	broadcast  = netip.MustParseAddr("255.255.255.255")
	probeAddr  = netip.MustParseAddr("192.0.2.250")
	probeMAC   = mac(0xff)
)

// mac is a client's hardware address, ip an address of the link.
var mac, ip = dhcpdtest.MAC, dhcpdtest.IP

// testConfig is a pool of ten addresses, .100 to .109, and the reservation that
// env.quiet needs.
func testConfig() v4.Config {
	return v4.Config{
		Settings: dhcpd.Settings{
			Network:      "test",
			Interface:    "br0",
			MAC:          mac(1),
			Server:       serverAddr,
			Prefix:       prefix,
			DNS:          []netip.Addr{serverAddr},
			Domain:       "vm.example",
			Ranges:       []dhcpd.Range{{Start: ip(100), End: ip(109)}},
			Reservations: []dhcpd.Reservation{{MAC: probeMAC, Addr: probeAddr}},
			Store:        dhcpdtest.NewStore(),
			Logger:       slog.New(slog.DiscardHandler),
		},
		Router: serverAddr,
	}
}

// wire is what stands between a test's clients and the server.
type wire interface {
	// send sends a client's message from an address, zero for none.
	send(t testing.TB, payload []byte, hw net.HardwareAddr, src, dst netip.Addr)
	// receive waits for the next reply.
	receive(t testing.TB) dhcpdtest.Sent
}

// env is a server that runs, and clients of it.
type env struct {
	t      testing.TB
	srv    *v4.Server
	cfg    v4.Config
	store  *dhcpdtest.Store
	wire   wire
	events *dhcpdtest.EventLog
	xid    byte
	stop   func() error
}

// start runs srv until the test ends or e.stop is called.
func start(t testing.TB, cfg v4.Config, w wire, open func(v4.Config) (*v4.Server, error)) *env {
	t.Helper()
	e := &env{t: t, cfg: cfg, wire: w, events: new(dhcpdtest.EventLog)}
	e.store, _ = cfg.Store.(*dhcpdtest.Store)
	cfg.OnLease = e.events.Add
	srv, err := open(cfg)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	e.srv = srv
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	e.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := e.stop(); err != nil {
			t.Errorf("running: %v", err)
		}
		if n := srv.Stats().Panics; n != 0 {
			t.Errorf("%d panics", n)
		}
		if t.Failed() {
			t.Logf("counters: %+v", srv.Stats())
		}
	})
	return e
}

// simulated runs body over a simulated link with simulated time.
func simulated(t *testing.T, cfg func() v4.Config, body func(t *testing.T, e *env)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		link := dhcpdtest.NewSimLink(256)
		e := start(t, cfg(), simWire{link}, func(c v4.Config) (*v4.Server, error) { return v4.OpenOn(c, link) })
		body(t, e)
	})
}

// both runs body over a simulated link and over a bridge with a guest on a veth.
func both(t *testing.T, cfg func() v4.Config, body func(t *testing.T, e *env)) {
	t.Helper()
	t.Run("simulated", func(t *testing.T) { simulated(t, cfg, body) })
	t.Run("veth", func(t *testing.T) {
		nstest.Run(t, func(t *testing.T) {
			dhcpdtest.MakeBridge(t)
			w := newVethWire(t)
			body(t, start(t, cfg(), w, v4.Open))
		})
	})
}

// simWire is a simulated link as a wire.
type simWire struct{ link *dhcpdtest.SimLink }

func (w simWire) send(_ testing.TB, payload []byte, _ net.HardwareAddr, src, dst netip.Addr) {
	if !src.IsValid() {
		src = netip.IPv4Unspecified()
	}
	w.link.Deliver(payload, netip.AddrPortFrom(src, 68), dst)
}

func (w simWire) receive(t testing.TB) dhcpdtest.Sent {
	t.Helper()
	select {
	case s := <-w.link.Replies():
		return s
	case <-time.After(dhcpdtest.ReplyLimit):
		t.Fatal("no reply")
		return dhcpdtest.Sent{}
	}
}

// reply is a reply as a client gets it.
type reply struct {
	*dhcpv4.DHCPv4
	sent dhcpdtest.Sent
}

// yiaddr is the address that the reply gives.
func (r reply) yiaddr() netip.Addr {
	a, _ := netip.AddrFromSlice(r.YourIPAddr.To4())
	return a
}

// String is the reply's type, with its address or, for a NAK, its text.
func (r reply) String() string {
	if r.MessageType() == dhcpv4.MessageTypeNak {
		return "NAK " + string(r.Options.Get(dhcpv4.OptionMessage))
	}
	return fmt.Sprint(r.MessageType(), " ", r.yiaddr())
}

// mod changes a message before it is sent.
type mod = func(m *dhcpv4.DHCPv4)

// opt sets an option.
func opt(code dhcpv4.OptionCode, value ...byte) mod {
	return func(m *dhcpv4.DHCPv4) { m.Options[code.Code()] = value }
}

func requested(a netip.Addr) mod {
	return opt(dhcpv4.OptionRequestedIPAddress, a.AsSlice()...)
}

func serverID(a netip.Addr) mod {
	return opt(dhcpv4.OptionServerIdentifier, a.AsSlice()...)
}

func hostname(name string) mod {
	return opt(dhcpv4.OptionHostName, []byte(name)...)
}

func clientID(id string) mod {
	return opt(dhcpv4.OptionClientIdentifier, []byte(id)...)
}

func ciaddr(a netip.Addr) mod {
	return func(m *dhcpv4.DHCPv4) { m.ClientIPAddr = a.AsSlice() }
}

func broadcastFlag(m *dhcpv4.DHCPv4) { m.SetBroadcast() }

// message is a message of a client.
func (e *env) message(typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) *dhcpv4.DHCPv4 {
	e.xid++
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: hw,
		TransactionID: dhcpv4.TransactionID{1, 2, 3, e.xid}, Options: dhcpv4.Options{},
	}
	if typ != dhcpv4.MessageTypeNone {
		m.UpdateOption(dhcpv4.OptMessageType(typ))
	}
	for _, f := range mods {
		f(m)
	}
	return m
}

// send broadcasts a message.
func (e *env) send(typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) {
	e.t.Helper()
	e.sendTo(broadcast, typ, hw, mods...)
}

// sendTo sends a message to dst, from ciaddr.
func (e *env) sendTo(dst netip.Addr, typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) {
	e.t.Helper()
	m := e.message(typ, hw, mods...)
	src, _ := netip.AddrFromSlice(m.ClientIPAddr.To4())
	e.wire.send(e.t, m.ToBytes(), hw, src, dst)
}

// receive waits for the next reply.
func (e *env) receive() reply {
	e.t.Helper()
	s := e.wire.receive(e.t)
	m, err := dhcpv4.FromBytes(s.Payload)
	if err != nil {
		e.t.Fatalf("parsing a reply: %v", err)
	}
	return reply{m, s}
}

// ask broadcasts a message and returns the reply to it.
func (e *env) ask(typ dhcpv4.MessageType, hw net.HardwareAddr, mods ...mod) reply {
	e.t.Helper()
	e.send(typ, hw, mods...)
	r := e.receive()
	if r.TransactionID[3] != e.xid {
		e.t.Fatalf("the next reply is %v for another transaction", r)
	}
	return r
}

// quiet fails the test unless the server has answered all that it will: the
// reply to a message that needs a commit comes next.
func (e *env) quiet() {
	e.t.Helper()
	if r := e.ask(dhcpv4.MessageTypeRequest, probeMAC, requested(probeAddr)); r.String() != "ACK 192.0.2.250" {
		e.t.Errorf("the server was to be silent, got %v", r)
	}
}

// want fails the test unless r is what String says.
func (e *env) want(r reply, want string) {
	e.t.Helper()
	if r.String() != want {
		e.t.Errorf("got %v, want %v", r, want)
	}
}

// discover gets an offer.
func (e *env) discover(hw net.HardwareAddr, mods ...mod) netip.Addr {
	e.t.Helper()
	r := e.ask(dhcpv4.MessageTypeDiscover, hw, mods...)
	if r.MessageType() != dhcpv4.MessageTypeOffer {
		e.t.Fatalf("got %v, want an offer", r)
	}
	return r.yiaddr()
}

// lease takes a client from INIT to BOUND.
func (e *env) lease(hw net.HardwareAddr, mods ...mod) netip.Addr {
	e.t.Helper()
	a := e.discover(hw, mods...)
	e.want(e.selecting(hw, a, mods...), fmt.Sprint("ACK ", a))
	return a
}

func (e *env) selecting(hw net.HardwareAddr, a netip.Addr, mods ...mod) reply {
	e.t.Helper()
	return e.ask(dhcpv4.MessageTypeRequest, hw, append(mods, requested(a), serverID(serverAddr))...)
}

func (e *env) initReboot(hw net.HardwareAddr, a netip.Addr, mods ...mod) reply {
	e.t.Helper()
	return e.ask(dhcpv4.MessageTypeRequest, hw, append(mods, requested(a))...)
}

// renew sends the unicast REQUEST of the RENEWING state.
func (e *env) renew(hw net.HardwareAddr, a netip.Addr, mods ...mod) reply {
	e.t.Helper()
	e.sendTo(serverAddr, dhcpv4.MessageTypeRequest, hw, append(mods, ciaddr(a))...)
	return e.receive()
}

// release sends a RELEASE and waits until it has been acted on.
func (e *env) release(hw net.HardwareAddr, a netip.Addr, mods ...mod) {
	e.t.Helper()
	e.sendTo(serverAddr, dhcpv4.MessageTypeRelease, hw, append(mods, ciaddr(a), serverID(serverAddr))...)
	e.quiet()
}
