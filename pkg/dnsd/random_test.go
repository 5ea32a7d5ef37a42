package dnsd_test

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestQuestionsCantBeGuessed: who can't read what the upstream is asked can't tell from which
// port and with which number. A port is for few questions, and never the only one; no
// number follows from another (RFC 5452 section 9.2).
func TestQuestionsCantBeGuessed(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server, err := net.ListenPacket("udp", upstream+":53")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = server.Close() }()
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		start(t, cfg)
		var ports, numbers []int
		buf := make([]byte, 2048)
		for i := range 640 {
			go func() {
				_, _ = tryAsk("udp", gateway, question(fmt.Sprintf("n%d.example.com.", i), dns.TypeA))
			}()
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				t.Fatal(err)
			}
			q := new(dns.Msg)
			if err := q.Unpack(buf[:n]); err != nil {
				t.Fatal(err)
			}
			ports, numbers = append(ports, from.(*net.UDPAddr).Port), append(numbers, int(q.Id))
			r := new(dns.Msg).SetRcode(q, dns.RcodeNameError)
			if _, err := server.WriteTo(pack(r)[0], from); err != nil {
				t.Fatal(err)
			}
		}
		ofPort, distinct, near := make(map[int]int), make(map[int]bool), 0
		for i, n := range numbers {
			ofPort[ports[i]]++
			distinct[n] = true
			if i > 0 && max(n-numbers[i-1], numbers[i-1]-n) < 16 {
				near++
			}
		}
		if len(distinct) < 620 || near > 10 {
			t.Errorf("of 640 numbers %d are distinct and %d near the one before: %v", len(distinct), near, numbers)
		}
		for port, n := range ofPort {
			if n > 64 {
				t.Errorf("%d questions left from port %d", n, port)
			}
		}
		for i := 32; i <= len(ports); i += 32 {
			some := slices.Clone(ports[i-32 : i])
			slices.Sort(some)
			if len(slices.Compact(some)) < 2 {
				t.Errorf("32 questions in a row left from port %d", some[0])
			}
		}
	})
}
