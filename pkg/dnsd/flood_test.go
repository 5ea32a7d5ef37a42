package dnsd_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// absent sends frames of a guest to the server, under addresses of the subnet that
// nobody has.
type absent struct {
	t      *testing.T
	fd     int
	to     unix.SockaddrLinklayer
	server net.HardwareAddr
	sent   int
}

// newAbsent opens a packet socket on a guest's card.
func newAbsent(t *testing.T, g *nstest.NS) *absent {
	t.Helper()
	bridge, err := net.InterfaceByName("virbr0")
	if err != nil {
		t.Fatal(err)
	}
	a := &absent{t: t, server: bridge.HardwareAddr}
	err = g.Do(func() (err error) {
		card, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		a.to = unix.SockaddrLinklayer{Ifindex: card.Index}
		a.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(a.fd) })
	return a
}

// send asks for name from the next address of those from .60 on.
func (a *absent) send(name string) {
	m := mustPack(a.t, question(name, dns.TypeA))
	f := make([]byte, 42, 42+len(m))
	copy(f, a.server)
	copy(f[6:], "\x52\x54\x00\x66\x66\x66\x08\x00\x45")
	binary.BigEndian.PutUint16(f[16:], uint16(28+len(m)))
	f[22], f[23] = 64, unix.IPPROTO_UDP
	copy(f[26:], []byte{192, 168, 122, byte(60 + a.sent%190), 192, 168, 122, 1})
	sum := uint32(0)
	for i := 14; i < 34; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(f[i:]))
	}
	binary.BigEndian.PutUint16(f[24:], ^uint16(sum>>16+sum))
	binary.BigEndian.PutUint16(f[34:], uint16(2000+a.sent%50000))
	f[37] = 53
	binary.BigEndian.PutUint16(f[38:], uint16(8+len(m)))
	if err := unix.Sendto(a.fd, append(f, m...), 0, &a.to); err != nil {
		a.t.Error(err)
	}
	a.sent++
}

// TestAbsentClients: what is answered to addresses that nobody has waits in the kernel for a
// neighbour. It must not keep anybody else from being answered, nor the server from reading,
// and no goroutine waits for it.
func TestAbsentClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startResolver(t, upstream, always("198.51.100.1"))
		cfg := bridgeConfig(t)
		// As the bridge of a network has it.
		nstest.Exec(t, "sysctl", "-qw", "net.ipv4.neigh.virbr0.unres_qlen_bytes=16384")
		sibling := guest(t)
		flood := newAbsent(t, nstest.Guest(t, "virbr0", "evil", "52:54:00:66:66:66"))
		writeResolvConf(t, cfg.ResolvConf, upstream)
		s := start(t, cfg)
		var c *dns.Conn
		if err := sibling.Do(func() (err error) {
			c, err = dns.Dial("udp", "192.168.122.1:53")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		before := runtime.NumGoroutine()

		ctx, cancel := context.WithCancel(t.Context())
		var flooding sync.WaitGroup
		defer flooding.Wait()
		defer cancel()
		flooding.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				flood.send("gateway.")
				flood.send(fmt.Sprintf("flood%d.example.com.", i))
				if i%20 == 0 {
					time.Sleep(10 * time.Millisecond) // the server is to be kept busy, not its processors
				}
			}
		})
		nstest.Eventually(t, limit, "the flood has come", func() error {
			if n := s.Stats().Queries; n < 5000 {
				return fmt.Errorf("%d queries", n)
			}
			return nil
		})
		most := 0
		for i := range 200 {
			name := "gateway."
			if i%2 == 1 {
				name = fmt.Sprintf("www%d.example.com.", i)
			}
			if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
				t.Fatal(err)
			}
			if err := c.WriteMsg(question(name, dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
				t.Fatalf("question %d, of %s, was not answered: %v (%v), %+v", i, name, r, err, s.Stats())
			}
			most = max(most, runtime.NumGoroutine())
		}
		// Questions under way upstream have some; waiting for absent clients would be thousands.
		if most > before+1000 {
			t.Errorf("%d goroutines, %d before", most, before)
		}
	})
}
