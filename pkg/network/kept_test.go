package network_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// keptUUID is the UUID of all that keptXML makes.
const keptUUID = "8f7a3b52-0c1d-4e5f-9a6b-7c8d9e0f1a2b"

// keptXML is a network "one" of a subnet, with what its <dhcp> has; none if that is
// empty.
func keptXML(subnet, dhcp string) string {
	if dhcp != "" {
		dhcp = "<dhcp>" + dhcp + "</dhcp>"
	}
	return "<network><name>one</name><uuid>" + keptUUID + "</uuid><bridge name='one' stp='off'/><dns enable='no'/>" +
		"<ip address='" + subnet + ".1' netmask='255.255.255.0'>" + dhcp + "</ip></network>"
}

// keptRange is a <range> of a subnet.
func keptRange(subnet string, from, to int) string {
	return fmt.Sprintf("<range start='%s.%d' end='%s.%d'/>", subnet, from, subnet, to)
}

// clients are machines behind one link of the bridge "one", which comes and goes.
type clients struct {
	t    *testing.T
	conn net.PacketConn
	xid  byte
}

func newClients(t *testing.T) *clients {
	t.Helper()
	nstest.IP(t, "link add v-guests type veth peer name guests")
	nstest.IP(t, "link set guests up")
	nstest.IP(t, "link set v-guests up")
	conn, err := nclient4.NewRawUDPConn("guests", dhcpv4.ClientPort)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &clients{t: t, conn: conn}
}

// keptMAC is the hardware address of a client.
func keptMAC(n byte) net.HardwareAddr { return net.HardwareAddr{0, 0, 0x5e, 0, 0x53, n} }

// send sends a message of client n.
func (c *clients) send(typ dhcpv4.MessageType, n byte, mods ...dhcpv4.Modifier) dhcpv4.TransactionID {
	c.t.Helper()
	c.xid++
	nstest.IP(c.t, "link set guests address "+keptMAC(n).String()) // a client speaks from its own card
	id := dhcpv4.TransactionID{1, 2, 3, c.xid}
	mods = append(mods, dhcpv4.WithMessageType(typ), dhcpv4.WithHwAddr(keptMAC(n)), dhcpv4.WithTransactionID(id), dhcpv4.WithBroadcast(true))
	m, err := dhcpv4.New(mods...)
	must(c.t, err)
	_, err = c.conn.WriteTo(m.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: dhcpv4.ServerPort})
	must(c.t, err)
	return id
}

// ask has client n, which has just booted, ask for an address, which is always
// answered. It is empty for an acknowledgement, else why not.
func (c *clients) ask(n byte, a netip.Addr) (refusal string) {
	c.t.Helper()
	nstest.IP(c.t, "link set v-guests master one")
	nstest.Eventually(c.t, wait, "the server answers", func() error {
		id := c.send(dhcpv4.MessageTypeRequest, n, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(a.AsSlice())))
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
		buf := make([]byte, 2048)
		for {
			size, _, err := c.conn.ReadFrom(buf)
			if err != nil {
				return err
			}
			r, err := dhcpv4.FromBytes(buf[:size])
			if err != nil || r.TransactionID != id || r.OpCode != dhcpv4.OpcodeBootReply {
				continue
			}
			refusal = ""
			if r.MessageType() == dhcpv4.MessageTypeNak {
				refusal = r.Message()
			}
			return nil
		}
	})
	return refusal
}

// release has client n give up its address.
func (c *clients) release(n byte, a netip.Addr) {
	c.t.Helper()
	c.send(dhcpv4.MessageTypeRelease, n, dhcpv4.WithClientIP(a.AsSlice()))
}

// wantRefusal fails the test unless got is want, empty for an acknowledgement.
func wantRefusal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: refused with %q, want %q", what, got, want)
	}
}

// listed fails the test unless the lease of a is listed as a client's.
func listed(t *testing.T, when string, n *network.Network, a netip.Addr, mac net.HardwareAddr) {
	t.Helper()
	leases, err := n.Leases()
	must(t, err)
	if !slices.ContainsFunc(leases, func(l network.Lease) bool { return l.Addr == a && l.MAC.String() == mac.String() }) {
		t.Errorf("%s: the lease of %v by %v is not listed, but %+v", when, a, mac, leases)
	}
}

// TestLeaseOutlivesDefinition takes a network away from under a lease in every way
// there is, and gives it back: the address has stayed its client's.
func TestLeaseOutlivesDefinition(t *testing.T) {
	const here, elsewhere = "192.0.2", "198.51.100"
	a := netip.MustParseAddr(here + ".10")
	xml := keptXML(here, keptRange(here, 10, 10))
	define := func(xml string) func(h *hub) { return func(h *hub) { h.define(xml) } }
	stop := func(h *hub) { must(h.t, h.one().Stop(h.t.Context())) }
	start := func(h *hub) { must(h.t, h.one().Start(h.t.Context())) }
	undefine := func(h *hub) { must(h.t, h.one().Undefine(h.t.Context())) }
	steps := func(all ...func(h *hub)) []func(h *hub) { return all }
	for _, c := range []struct {
		name       string
		away, back []func(h *hub)
	}{
		{"stopped", steps(stop), steps(start)},
		{"range moved while stopped", steps(stop, define(keptXML(here, keptRange(here, 20, 29)))), steps(define(xml), start)},
		{"subnet moved while stopped", steps(stop, define(keptXML(elsewhere, keptRange(elsewhere, 10, 10))), start), steps(stop, define(xml), start)},
		{"DHCP ended while stopped", steps(stop, define(keptXML(here, "")), start), steps(stop, define(xml), start)},
		{"undefined and defined", steps(stop, undefine), steps(define(xml), start)},
		{"undefined while active", steps(undefine, stop), steps(define(xml), start)},
		{"undefined and created", steps(stop, undefine), steps(func(h *hub) {
			_, err := h.Create(h.t.Context(), []byte(xml))
			must(h.t, err)
		})},
		{"updated in place", steps(func(h *hub) {
			must(h.t, h.one().Edit(h.t.Context(), network.TargetLive, func(doc *netdef.Network) error {
				doc.IPs[0].DHCP.Ranges[0].Start = netip.MustParseAddr(here + ".20")
				doc.IPs[0].DHCP.Ranges[0].End = netip.MustParseAddr(here + ".29")
				return nil
			}))
		}), steps(stop, start)},
	} {
		for _, restarted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, restarted %v", c.name, restarted), func(t *testing.T) {
				nstest.Run(t, func(t *testing.T) {
					root := t.TempDir()
					h := newHub(t, root, hubOptions{})
					h.started(xml)
					guests := newClients(t)
					wantRefusal(t, "at first", guests.ask(2, a), "")
					for _, do := range c.away {
						do(h)
					}
					if restarted {
						h.end()
						h = newHub(t, root, hubOptions{})
					}
					if n, err := h.ByName("one"); err == nil {
						listed(t, "while it is away", n, a, keptMAC(2))
					}
					for _, do := range c.back {
						do(h)
					}
					listed(t, "once it is back", h.one(), a, keptMAC(2))
					wantRefusal(t, "another client", guests.ask(3, a), "address in use")
					wantRefusal(t, "its own client", guests.ask(2, a), "")
				})
			})
		}
	}
}

// one is the network of that name.
func (h *hub) one() *network.Network {
	h.t.Helper()
	n, err := h.ByName("one")
	must(h.t, err)
	return n
}

// TestLeaseOfAnotherNetwork: what is on the same subnet under another UUID is another
// network, whose addresses are free.
func TestLeaseOfAnotherNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const subnet = "192.0.2"
		h := newHub(t, t.TempDir(), hubOptions{})
		xml := keptXML(subnet, keptRange(subnet, 10, 10))
		n := h.started(xml)
		guests := newClients(t)
		a := netip.MustParseAddr(subnet + ".10")
		wantRefusal(t, "at first", guests.ask(2, a), "")
		must(t, errors.Join(n.Stop(t.Context()), n.Undefine(t.Context())))
		h.started(strings.Replace(xml, keptUUID, strings.Replace(keptUUID, "8", "9", 1), 1))
		wantRefusal(t, "on another network", guests.ask(3, a), "")
	})
}

// TestReservedAddressIsLeased tells of a reservation of an address that another
// client leases, until that lease ends.
func TestReservedAddressIsLeased(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const subnet = "192.0.2"
		h := newHub(t, t.TempDir(), hubOptions{unguarded: true})
		n := h.started(keptXML(subnet, keptRange(subnet, 10, 20)))
		guests := newClients(t)
		a, b := netip.MustParseAddr(subnet+".10"), netip.MustParseAddr(subnet+".11")
		wantRefusal(t, "at first", guests.ask(2, a), "")
		u := netdef.Update{
			Command: netdef.CommandAddLast, Section: netdef.SectionIPDHCPHost, Index: -1,
			XML: []byte(fmt.Sprintf("<host mac='%s' ip='%s'/>", keptMAC(3), a)),
		}
		must(t, n.Update(t.Context(), u, network.TargetCurrent))
		c := await(t, n, "address-leased", true)
		for _, part := range []string{a.String(), keptMAC(2).String(), keptMAC(3).String(), "until 20"} {
			if text := c.Message + "; " + c.Evidence; !strings.Contains(text, part) {
				t.Errorf("the condition says %q, want %q in it", text, part)
			}
		}
		wantRefusal(t, "the reservation's client", guests.ask(3, a), "address in use")
		wantRefusal(t, "elsewhere", guests.ask(3, b), "")
		guests.release(2, a)
		await(t, n, "address-leased", false)
		wantRefusal(t, "the reservation's client, which has moved", guests.ask(3, b), "wrong address")
		guests.release(3, b)
		wantRefusal(t, "the reservation's client", guests.ask(3, a), "")
	})
}

// TestRefusedPortEndsNoLease asks for a port that can't be, with the MAC address of a
// guest that others have plugged in.
func TestRefusedPortEndsNoLease(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const subnet = "192.0.2"
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(keptXML(subnet, keptRange(subnet, 10, 20)))
		guests := newClients(t)
		a, b := netip.MustParseAddr(subnet+".10"), netip.MustParseAddr(subnet+".11")
		wantRefusal(t, "a guest", guests.ask(2, a), "")
		wantRefusal(t, "another guest", guests.ask(3, b), "")
		_, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{MAC: keptMAC(2), Addrs: []netip.Addr{b}})
		if network.KindOf(err) != api.Conflict {
			t.Errorf("a port with the address of another guest: %v", err)
		}
		wantRefusal(t, "a third guest", guests.ask(4, a), "address in use")
		listed(t, "after the request", n, a, keptMAC(2))
	})
}
