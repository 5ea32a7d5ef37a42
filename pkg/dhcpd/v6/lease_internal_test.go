package v6

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// BenchmarkLease is what a lease of a new client costs without the kernel and the disk: Solicit,
// Advertise, Request and Reply.
func BenchmarkLease(b *testing.B) {
	link := new(dhcpdtest.Sink)
	server := netip.MustParseAddr("2001:db8::1")
	cfg := Config{Settings: dhcpd.Settings{
		Network: "bench", Interface: "br0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Server: server, Domain: "vm.example",
		Prefix: netip.MustParsePrefix("2001:db8::/64"), DNS: []netip.Addr{server}, Store: link,
		Ranges: []dhcpd.Range{{Start: netip.MustParseAddr("2001:db8::1:0"), End: netip.MustParseAddr("2001:db8::2:ffff")}},
	}}
	card := net.HardwareAddr{2, 0, 1, 2, 3, 4} // the last four bytes are the client's number
	question := func(typ dhcpv6.MessageType, options ...dhcpv6.Option) []byte {
		m := &dhcpv6.Message{MessageType: typ}
		m.AddOption(dhcpv6.OptClientID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: card}))
		for _, o := range options {
			m.AddOption(o)
		}
		return m.ToBytes()
	}
	solicit := question(dhcpv6.MessageTypeSolicit, &dhcpv6.OptIANA{IaId: [4]byte{3: 1}})
	// The address stands where an Advertise has it, behind the server's identifier.
	request := question(dhcpv6.MessageTypeRequest, dhcpv6.OptServerID(&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: cfg.MAC}),
		&dhcpv6.OptIANA{IaId: [4]byte{3: 1}, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{&dhcpv6.OptIAAddress{IPv6Addr: server.AsSlice()}}}})
	at, number := bytes.Index(request, server.AsSlice()), bytes.Index(request, card[2:])
	from := netip.MustParseAddrPort("[fe80::2]:546")
	ask := func(e *dhcpd.Engine, m []byte, n int) {
		binary.BigEndian.PutUint32(m[number:], uint32(n))
		e.Serve([]dhcpd.Datagram{{Payload: m, Src: from, Dst: netip.MustParseAddr(allServersAndRelays)}}, time.Now())
	}
	engine := func() (*dhcpd.Engine, error) {
		srv, err := open(cfg, func() (dhcpd.Transport, error) { return link, nil })
		if err != nil {
			return nil, err
		}
		return srv.h.Engine, nil
	}
	dhcpdtest.Newcomers(b, 60000, engine, func(e *dhcpd.Engine, n int) {
		ask(e, solicit, n)
		copy(request[at:], link.Last.Payload[at:at+addrSize])
		ask(e, request, n)
		e.Commit()
		if link.Last.Type != uint8(dhcpv6.MessageTypeReply) || !bytes.Equal(link.Last.Payload[at:at+addrSize], request[at:at+addrSize]) {
			b.Fatalf("client %d was answered %d", n, link.Last.Type)
		}
	})
}
