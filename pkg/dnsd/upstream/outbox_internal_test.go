package upstream

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
)

// listenAt opens a server's socket.
func listenAt(t *testing.T, address string) (*net.UDPConn, *Server) {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil { // what does not come in is lost
		t.Fatal(err)
	}
	return conn, &Server{addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}
}

// fill puts questions for names of those lengths into o and returns them.
func fill(t *testing.T, c *Client, o *Outbox, to *Server, lengths []int) (all []string) {
	t.Helper()
	q := NewQueries(c, nil)
	for i, length := range lengths {
		name := fmt.Sprintf("%0*d.", length-1, i)
		query, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		f := &InFlight{queries: q}
		if err := c.prepare(&f.first, to, query, 0, time.Now()); err != nil {
			t.Fatal(err)
		}
		f.first.inFlight = f
		o.add(&f.first)
		all = append(all, string(f.first.pending.query))
	}
	return all
}

// sentPackets returns how many packets this namespace has sent over IPv4.
func sentPackets(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/net/snmp")
	if err != nil {
		t.Fatal(err)
	}
	var titles []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if fields[0] != "Ip:" {
			continue
		}
		if titles == nil {
			titles = fields
			continue
		}
		n, err := strconv.Atoi(fields[slices.Index(titles, "OutRequests")])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	t.Fatalf("no packets are counted: %s", text)
	return 0
}

// Questions that leave together come in each for itself, however long they are, and the kernel
// carries those of a length to a server on this host as one; where it can't, as many as there are.
func TestQuestionsLeaveTogether(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link set lo up")
		nstest.IP(t, "addr add 192.0.2.1/32 dev lo")
		c := NewClient(slog.New(slog.DiscardHandler))
		t.Cleanup(c.Close)
		mixed := []int{20, 20, 20, 19, 20, 30, 30, 25, 30}
		for _, test := range []struct {
			name, server string
			lengths      []int
			packets      int
			mtu          int
		}{
			{"of a length", "127.0.0.11:0", slices.Repeat([]int{20}, outboxSize), 1, 65536},
			{"more than leave together", "127.0.0.12:0", slices.Repeat([]int{20}, outboxSize+2), 2, 65536},
			{"mixed", "127.0.0.13:0", mixed, 4, 65536},
			{"one", "127.0.0.14:0", []int{20}, 1, 65536},
			{"of another host, as far as can be told", "192.0.2.1:0", mixed, len(mixed), 65536},
			{"longer than a packet", "127.0.0.15:0", []int{40, 40, 40, 12}, 4, 68},
		} {
			t.Run(test.name, func(t *testing.T) {
				nstest.IP(t, fmt.Sprintf("link set lo mtu %d", test.mtu))
				conn, server := listenAt(t, test.server)
				o := new(Outbox)
				before := sentPackets(t)
				want := fill(t, c, o, server, test.lengths)
				o.Flush()
				if n := sentPackets(t) - before; n != test.packets {
					t.Errorf("%d packets, want %d", n, test.packets)
				}
				var got []string
				buf := make([]byte, 1000)
				for range test.lengths {
					n, err := conn.Read(buf)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, string(buf[:n]))
				}
				if !slices.Equal(got, want) {
					t.Errorf("got %q\nwant %q", got, want)
				}
				if n := int(server.queries.Load()); n != len(want) {
					t.Errorf("%d questions are counted, want %d", n, len(want))
				}
			})
		}
	})
}
