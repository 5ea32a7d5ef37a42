package v4

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// BenchmarkLease is what a lease of a new client behind a relay costs without the kernel and
// the disk: DISCOVER, OFFER, REQUEST and ACK.
func BenchmarkLease(b *testing.B) {
	link := new(dhcpdtest.Sink)
	server, relay := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	cfg := Config{Router: server, Settings: dhcpd.Settings{
		Network: "bench", Interface: "br0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Server: server, Domain: "vm.example",
		Prefix: netip.MustParsePrefix("10.0.0.0/8"), DNS: []netip.Addr{server}, Store: link,
		Ranges: []dhcpd.Range{{Start: netip.MustParseAddr("10.1.0.0"), End: netip.MustParseAddr("10.2.255.255")}},
	}}
	question := func(typ dhcpv4.MessageType, mods ...dhcpv4.Modifier) []byte {
		m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: cfg.MAC, Options: dhcpv4.Options{}, GatewayIPAddr: relay.AsSlice()}
		m.UpdateOption(dhcpv4.OptMessageType(typ))
		m.UpdateOption(dhcpv4.OptParameterRequestList(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName))
		for _, mod := range mods {
			mod(m)
		}
		return m.ToBytes()
	}
	discover := question(dhcpv4.MessageTypeDiscover)
	request := question(dhcpv4.MessageTypeRequest,
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server.AsSlice())), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.IP{1, 2, 3, 4})))
	asked := bytes.Index(request, []byte{1, 2, 3, 4})
	ask := func(e *dhcpd.Engine, m []byte, n int) {
		binary.BigEndian.PutUint32(m[4:], uint32(n))
		binary.BigEndian.PutUint32(m[30:], uint32(n))
		e.Serve([]dhcpd.Datagram{{Payload: m, Src: netip.AddrPortFrom(relay, serverPort), Dst: server}}, time.Now())
	}
	engine := func() (*dhcpd.Engine, error) {
		srv, err := open(cfg, func() (dhcpd.Transport, error) { return link, nil })
		if err != nil {
			return nil, err
		}
		return srv.h.Engine, nil
	}
	dhcpdtest.Newcomers(b, 60000, engine, func(e *dhcpd.Engine, n int) {
		ask(e, discover, n)
		copy(request[asked:], link.Last.Payload[16:20])
		ask(e, request, n)
		e.Commit()
		if link.Last.Type != uint8(dhcpv4.MessageTypeAck) {
			b.Fatalf("client %d was answered %d", n, link.Last.Type)
		}
	})
}
