package nstest_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

func TestRunIsAlone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		links := strings.Split(strings.TrimSpace(nstest.IP(t, "-o link")), "\n")
		if len(links) != 1 || !strings.Contains(links[0], "LOOPBACK,UP") {
			t.Errorf("a fresh namespace has links %q, want lo alone and up", links)
		}
		if left, err := os.ReadDir("/run"); err != nil || len(left) != 1 {
			t.Errorf("a fresh /run holds %v (%v), want netns alone", left, err)
		}
	})
}

func TestRunInSubtest(t *testing.T) {
	for _, name := range []string{"one", "two (odd name)"} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) { nstest.IP(t, "link add b0 type bridge") })
		})
	}
}

func TestLANReachesItsHost(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		lan := nstest.NewLAN(t)
		nstest.Exec(t, "ping", "-c1", "-W20", nstest.LANHost)
		lan.Exec("ping", "-c1", "-W20", nstest.Uplink6)
	})
}

// TestGuestGoes has the next guest of a name come while a socket keeps the namespace of
// the former.
func TestGuestGoes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add b0 type bridge")
		var held net.PacketConn
		for range 2 {
			err := nstest.Play(t.Context(), os.Stderr, func(t nstest.TB) {
				g := nstest.Guest(t, "b0", "g", "")
				err := g.Do(func() (err error) {
					held, err = net.ListenPacket("udp4", "127.0.0.1:0")
					return err
				})
				if err != nil {
					t.Fatalf("%w", err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func(held net.PacketConn) { _ = held.Close() }(held)
		}
	})
}
