package flows

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// entry is the body of an NFNL message about a connection of TCP from a client to the port
// of an address of the host, led to a guest.
func entry(client, host, guest string, port, guestPort uint16) []byte {
	tuple := func(src, dst string, srcPort, dstPort uint16) []byte {
		ip := netlink.AppendAttribute(nil, ctaIPv4Src, netip.MustParseAddr(src).AsSlice())
		ip = netlink.AppendAttribute(ip, ctaIPv4Dst, netip.MustParseAddr(dst).AsSlice())
		proto := netlink.AppendAttribute(nil, ctaProtoNum, []byte{numbers["tcp"]})
		proto = netlink.AppendAttribute(proto, ctaProtoSrcPort, binary.BigEndian.AppendUint16(nil, srcPort))
		proto = netlink.AppendAttribute(proto, ctaProtoDstPort, binary.BigEndian.AppendUint16(nil, dstPort))
		return netlink.AppendAttribute(netlink.AppendAttribute(nil, ctaTupleIP, ip), ctaTupleProto, proto)
	}
	b := netlink.AppendAttribute(make([]byte, 4), ctaTupleOrig, tuple(client, host, 40000, port))
	b = netlink.AppendAttribute(b, ctaTupleReply, tuple(guest, client, guestPort, 40000))
	for i, kind := range []uint16{ctaCountsOrig, ctaCountsReply} {
		counts := netlink.AppendAttribute(nil, ctaCountsPackets, binary.BigEndian.AppendUint64(nil, uint64(3+i)))
		counts = netlink.AppendAttribute(counts, ctaCountsBytes, binary.BigEndian.AppendUint64(nil, uint64(300+i)))
		b = netlink.AppendAttribute(b, kind, counts)
	}
	return netlink.AppendAttribute(b, ctaStatus, binary.BigEndian.AppendUint32(nil, statusDstNAT))
}

// TestLedBy tells by which forwards a connection is led.
func TestLedBy(t *testing.T) {
	c := parse(entry("198.51.100.1", "203.0.113.2", "192.0.2.5", 8083, 83))
	for _, tt := range []struct {
		what   string
		change func(*firewall.Forward)
		want   bool
	}{
		{"it", func(*firewall.Forward) {}, true},
		{"its address", func(f *firewall.Forward) { f.Address = netip.MustParseAddr("203.0.113.2") }, true},
		{"another address", func(f *firewall.Forward) { f.Address = netip.MustParseAddr("203.0.113.3") }, false},
		{"another protocol", func(f *firewall.Forward) { f.Protocol = "udp" }, false},
		{"another guest", func(f *firewall.Forward) { f.To = netip.MustParseAddr("192.0.2.6") }, false},
		{"other ports", func(f *firewall.Forward) { f.Ports.End = 8082 }, false},
		{"other ports of the guest", func(f *firewall.Forward) { f.ToPort = 81 }, false},
		{"its client", func(f *firewall.Forward) { f.From = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")} }, true},
		{"other clients", func(f *firewall.Forward) { f.From = []netip.Prefix{netip.MustParsePrefix("198.51.100.2/32")} }, false},
	} {
		f := firewall.Forward{Protocol: "tcp", Ports: firewall.PortRange{Start: 8080, End: 8089}, To: netip.MustParseAddr("192.0.2.5"), ToPort: 80}
		if tt.change(&f); c.ledBy([]firewall.Forward{f}) != tt.want {
			t.Errorf("led by one of %s: %v, want %v", tt.what, !tt.want, tt.want)
		}
	}
}

// TestCounts reads what the kernel counts of a connection, of both directions.
func TestCounts(t *testing.T) {
	c := parse(entry("198.51.100.1", "203.0.113.2", "192.0.2.5", 8083, 83))
	var got firewall.Tally
	c.count(&got)
	c.count(&got)
	if want := (firewall.Tally{Connections: 2, Packets: 14, Bytes: 1202, Counted: true}); got != want {
		t.Errorf("the connection twice is %+v, want %+v", got, want)
	}
}

// FuzzParse reads what the kernel might say.
func FuzzParse(f *testing.F) {
	f.Add(entry("198.51.100.1", "203.0.113.2", "192.0.2.5", 8083, 83))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		c := parse(body)
		all := []firewall.Forward{{Protocol: "tcp", Ports: firewall.PortRange{Start: 1, End: 65535}, To: c.reply.src, ToPort: 1}}
		if c.ledBy(all) && !c.led {
			t.Error("a connection is led whose destination was not rewritten")
		}
	})
}
