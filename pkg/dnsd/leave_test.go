package dnsd_test

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestLeave has one server take over the sockets of another: who has asked the
// first is answered by it, who asks in between by the second.
func TestLeave(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		asked, answer := make(chan struct{}, 8), make(chan struct{})
		startResolver(t, upstream, func(_ string, q *dns.Msg) [][]byte {
			asked <- struct{}{}
			<-answer
			return pack(answerA(q, "198.51.100.1"))
		})
		cfg.Forwarders = []dnsd.Forwarder{{Addr: addr(upstream)}}
		first, err := dnsd.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx) }()

		slow := begin(t, "slow.example.")
		<-asked
		left := make(chan []*os.File, 1)
		go func() {
			files, err := first.Leave(t.Context())
			if err != nil {
				t.Error(err)
			}
			left <- files
		}()
		select {
		case cfg.Left = <-left:
			t.Fatal("the server left a client who waits for an upstream")
		case <-time.After(100 * time.Millisecond): // that it never does can't be seen
		}
		close(answer)
		cfg.Left = <-left
		between := begin(t, "gateway.")
		slow()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the first server: %v", err)
		}
		if len(cfg.Left) != 4 {
			t.Errorf("%d sockets are left, want UDP and TCP on both addresses", len(cfg.Left))
		}
		start(t, cfg)
		for _, f := range cfg.Left {
			_ = f.Close()
		}
		between()
		for _, proto := range []string{"udp", "tcp"} {
			for _, at := range []string{gateway, gateway6} {
				if r := ask(t, proto, at, question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
					t.Errorf("asked at %s over %s: %v", at, proto, r)
				}
			}
		}
	})
}

// begin sends a query for a name that has one address. The returned function waits
// for the answer.
func begin(t *testing.T, name string) (end func()) {
	t.Helper()
	c, err := dns.DialTimeout("udp", gateway+":53", limit)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.WriteMsg(question(name, dns.TypeA)); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		defer c.Close()
		if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Errorf("asked for %s: %v, %v", name, r, err)
		}
	}
}

// TestLeaveConnections has one server take over the TCP connections of another: what is
// asked on them is answered by the one that reads it, also where only a part of a query
// has come when the first is left, and nobody asks twice.
func TestLeaveConnections(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := loConfig(t)
		first, err := dnsd.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- first.Run(ctx) }()

		idle, partly := dialDNS(t, gateway), dialDNS(t, gateway6)
		query := packedTCP(t, "gateway.")
		for _, c := range []net.Conn{idle, partly} {
			write(t, c, query)
			answered(t, c, "before it was left")
		}
		write(t, partly, query[:1])
		time.Sleep(50 * time.Millisecond) // until it is read; where it is not yet, the test holds less
		left := make(chan []*os.File, 1)
		go func() {
			files, err := first.Leave(t.Context())
			if err != nil {
				t.Error(err)
			}
			left <- files
		}()
		time.Sleep(50 * time.Millisecond)
		write(t, partly, query[1:])
		answered(t, partly, "a query of which a part was read")
		cfg.Left = <-left
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the first server: %v", err)
		}
		if len(cfg.Left) != 6 {
			t.Errorf("%d sockets are left, want four and two connections", len(cfg.Left))
		}
		write(t, idle, query)
		write(t, partly, query)
		start(t, cfg)
		for _, f := range cfg.Left {
			_ = f.Close()
		}
		answered(t, idle, "asked in between")
		answered(t, partly, "asked in between")
	})
}

// packedTCP is a query for an address, as TCP carries it.
func packedTCP(t *testing.T, name string) []byte {
	t.Helper()
	packed, err := question(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{0, byte(len(packed))}, packed...)
}

// write writes octets to a server.
func write(t *testing.T, c net.Conn, b []byte) {
	t.Helper()
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
}

// answered wants an answer with an address.
func answered(t *testing.T, c net.Conn, when string) {
	t.Helper()
	r, err := (&dns.Conn{Conn: c}).ReadMsg()
	if err != nil || len(r.Answer) != 1 {
		t.Errorf("%s: %v, %v", when, r, err)
	}
}

// dialDNS opens a connection to the server.
func dialDNS(t *testing.T, at string) net.Conn {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(at, "53"), limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	return c
}
