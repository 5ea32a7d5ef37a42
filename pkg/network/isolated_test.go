package network_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestIsolatedFromTheStart has a port be isolated when its guest gets it, on a bridge with STP, where
// devices of others are made to forward as soon as somebody has them open, and stay so.
func TestIsolatedFromTheStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		for range 5 {
			info, file := h.port(n, network.PortOptions{Isolated: true})
			for range 10 {
				got, err := os.ReadFile("/sys/class/net/" + info.IfName + "/brport/isolated")
				must(t, err)
				if strings.TrimSpace(string(got)) != "1" {
					t.Fatalf("port %s reaches others that are isolated", info.IfName)
				}
				time.Sleep(20 * time.Millisecond)
			}
			must(t, file.Close())
		}
		if repairs := h.repairs(n); repairs > 0 {
			t.Errorf("%d repairs", repairs)
		}
	})
}
