package dnsd_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestDay passes a day by a clock of its own, with leases and questions in every
// minute of it. In the end the server holds no more than it may.
func TestDay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const (
			minutes = 24 * 60
			burst   = 25 // questions of a minute
			few     = 10 // goroutines that may have begun since they were counted
		)
		startResolver(t, upstream, always("198.51.100.1"))
		cfg := loConfig(t)
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s, err := dnsd.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var minute atomic.Int64
		begin := time.Now()
		s.SetTiming(patience, patience, time.Second)
		s.SetClock(func() time.Time { return begin.Add(time.Duration(minute.Load()) * time.Minute) })
		run(t, s)
		goroutines, files := runtime.NumGoroutine(), openFiles(t)
		c, err := net.Dial("udp", net.JoinHostPort(gateway, "53"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for ; minute.Load() < minutes; minute.Add(1) {
			n := int(minute.Load())
			s.SetHost(dnsd.Host{Name: fmt.Sprintf("vm%d", n), Addr: guestAddr(n)})
			s.DeleteAddr(guestAddr(n - 100))
			for i := range burst {
				if _, err := c.Write(mustPack(t, question(fmt.Sprintf("n%d-%d.example.com.", n, i), dns.TypeA))); err != nil {
					t.Fatal(err)
				}
			}
			receive(t, c, burst)
		}
		nstest.Eventually(t, limit, "all that was begun has ended", func() error {
			if g, f := runtime.NumGoroutine(), openFiles(t); g > goroutines+few || f > files+1 {
				return fmt.Errorf("%d goroutines and %d files, %d and %d in the beginning", g, f, goroutines, files)
			}
			return nil
		})
		st := s.Stats()
		if st.Queries < minutes*burst || st.CacheEntries > 16<<10 || st.CacheBytes > 8<<20 || st.Forwarding > 0 {
			t.Errorf("%+v", st)
		}
		if got := respond(t, s, question("vm0.", dns.TypeA)); got != "-" {
			t.Errorf("the name of the first guest is %s", got)
		}
	})
}

// guestAddr is the address of the n-th guest.
func guestAddr(n int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}) }

// openFiles counts this process's.
func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// receive reads answers to as many questions.
func receive(t *testing.T, c net.Conn, count int) {
	t.Helper()
	buf := make([]byte, dns.MaxMsgSize)
	for range count {
		if m := readDatagram(t, c, buf); len(m.Answer) != 1 {
			t.Fatal(m)
		}
	}
}

// readDatagram reads one message, by way of buf.
func readDatagram(t *testing.T, c net.Conn, buf []byte) *dns.Msg {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(buf[:n]); err != nil {
		t.Fatalf("%v (%v)", m, err)
	}
	return m
}
