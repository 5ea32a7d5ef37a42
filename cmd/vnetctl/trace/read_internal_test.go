package trace

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
)

// FuzzReadHop reads messages of any form.
func FuzzReadHop(f *testing.F) {
	attribute := func(kind uint16, value ...byte) []byte { return netlink.AppendAttribute(nil, kind, value) }
	head := []byte{unix.NFPROTO_BRIDGE, 0, 0, 0}
	f.Add(append(head, attribute(unix.NFTA_TRACE_NETWORK_HEADER, 0x4f, 0, 0, 20)...))
	f.Add(append(head, append(attribute(unix.NFTA_TRACE_LL_HEADER, make([]byte, 14)...), attribute(unix.NFTA_TRACE_NETWORK_HEADER, 0x60)...)...))
	f.Add(append(head, netlink.AppendAttribute(nil, unix.NFTA_TRACE_VERDICT, attribute(unix.NFTA_VERDICT_CODE, 0, 0, 0, 0))...))
	f.Fuzz(func(_ *testing.T, body []byte) { _ = readHop(body).frame.String() })
}

// TestReadHop reads what the kernel says of verdicts.
func TestReadHop(t *testing.T) {
	for _, tt := range []struct {
		what    string
		body    []byte
		dropped bool
	}{
		{"drop", verdictOf(0), true},
		{"accept", verdictOf(1), false},
		{"drop with an error", verdictOf(0xfff30000), false},
		{"jump", verdictOf(0xfffffffd), false},
		{"policy drop", nfnetlink.AppendNumber([]byte{2, 0, 0, 0}, unix.NFTA_TRACE_POLICY, 0), true},
		{"policy accept", nfnetlink.AppendNumber([]byte{2, 0, 0, 0}, unix.NFTA_TRACE_POLICY, 1), false},
	} {
		if got := readHop(tt.body).dropped; got != tt.dropped {
			t.Errorf("%s: dropped %v, want %v", tt.what, got, tt.dropped)
		}
	}
}

func verdictOf(code uint32) []byte {
	return netlink.AppendAttribute([]byte{2, 0, 0, 0}, unix.NFTA_TRACE_VERDICT, nfnetlink.AppendNumber(nil, unix.NFTA_VERDICT_CODE, code))
}

// TestReasons reads the lines of the kernel's trace: of packets of the port alone, also
// once they are the bridge's, but not of those that later are where they were.
func TestReasons(t *testing.T) {
	r := &reasons{link: "vnet0", bridge: "br0", mine: make(map[string]time.Time), count: make(map[string]int)}
	for _, line := range []string{
		" ping-1 [000] ..s2. 1.0: netif_receive_skb: dev=vnet0 skbaddr=0001 len=84",
		" ping-1 [000] ..s2. 1.0: netif_receive_skb: dev=br0 skbaddr=0001 len=84",
		" ping-1 [000] ..s2. 1.0: kfree_skb: skbaddr=0001 rx_sk=(nil) protocol=2048 location=ip_rcv+0x1/0x2 reason: IP_RPFILTER",
		" ping-1 [000] ..s2. 1.0: kfree_skb: skbaddr=0001 rx_sk=(nil) protocol=2048 location=ip_rcv+0x1/0x2 reason: NO_SOCKET",
		" ping-1 [000] ..s2. 1.0: netif_receive_skb: dev=vnet0 skbaddr=0002 len=84",
		" ping-1 [000] ..s2. 1.0: netif_receive_skb: dev=eth0 skbaddr=0002 len=84",
		" ping-1 [000] ..s2. 1.0: kfree_skb: skbaddr=0002 protocol=2048 location=ip_rcv+0x1/0x2 reason: NO_SOCKET",
		" ping-1 [000] ..s2. 1.0: netif_receive_skb: dev=vnet0 skbaddr=0003 len=84",
		" ping-1 [000] ..s2. 1.0: kfree_skb: skbaddr=0003 protocol=2048 location=ip_rcv+0x1/0x2 reason: NOT_SPECIFIED",
		"CPU:0 [LOST 12 EVENTS]", "kfree_skb: skbaddr=", "",
	} {
		r.note(line)
	}
	if len(r.count) != 1 || r.count["IP_RPFILTER"] != 1 {
		t.Errorf("%v, want one IP_RPFILTER", r.count)
	}
}

// TestCounters reads the kernel's files.
func TestCounters(t *testing.T) {
	c := make(counters)
	c.addPairs("Ip: InHdrErrors FragFails\nIp: 3 4\nIcmp: InMsgs\nIcmp: 7\nodd")
	c.addTracking("entries clashres drop\n00000001 00000000 0000000a\n00000001 00000000 00000006\n")
	if c["InHdrErrors"] != 3 || c["FragFails"] != 4 || c["InMsgs"] != 7 || c[countTracking] != 16 {
		t.Errorf("%v", c)
	}
	if more := c.since(counters{"InHdrErrors": 1, "FragFails": 4}); more["InHdrErrors"] != 2 || len(more) != 3 {
		t.Errorf("%v", more)
	}
}

// TestForgottenNeighbour has a neighbour that did not answer be named when the kernel has
// forgotten it, as it does soon where there are many.
func TestForgottenNeighbour(t *testing.T) {
	const nobodys = -1
	e := &evidence{Options: Options{To: netip.MustParseAddr("192.0.2.9")}, sent: 3, out: link{name: "eno1", index: nobodys}, reasons: map[string]int{"NEIGH_FAILED": 3}}
	if text, _ := noNeighbour(e); !strings.Contains(text, "192.0.2.9 does not answer on eno1") {
		t.Errorf("the verdict is %q", text)
	}
	e.reasons = nil
	if text, _ := noNeighbour(e); text != "" {
		t.Errorf("without a sign of it the verdict is %q", text)
	}
}
