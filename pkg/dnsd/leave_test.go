package dnsd_test

import (
	"context"
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
