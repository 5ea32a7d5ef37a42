package bridge_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// spanningTrees are configurations and what the kernel shows for them.
var spanningTrees = []struct {
	name  string
	stp   bool
	delay time.Duration
	state int
	shown int
}{
	{"libvirt's default: on without delay", true, 0, 1, 200},
	{"on, 2 s", true, 2 * time.Second, 1, 200},
	{"on, 4.2 s", true, 4200 * time.Millisecond, 1, 420},
	{"on, more than the kernel's limit", true, time.Minute, 1, 3000},
	{"off without delay", false, 0, 0, 0},
	{"off, 15 s", false, 15 * time.Second, 0, 1500},
}

func TestSpanningTree(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		for i, tt := range spanningTrees {
			cfg := defaultConfig()
			cfg.Name = fmt.Sprintf("new%d", i)
			cfg.MAC[5], cfg.STP, cfg.ForwardDelay, cfg.Addrs = byte(i), tt.stp, tt.delay, nil
			ensure(t, b, cfg)
			got := show(t, cfg.Name).Info.Data
			if got.STPState != tt.state || got.ForwardDelay != tt.shown {
				t.Errorf("%s: STP %d, delay %d, want %d, %d", tt.name, got.STPState, got.ForwardDelay, tt.state, tt.shown)
			}
		}
	})
}

// TestSpanningTreeChanges goes from every configuration to every other.
func TestSpanningTreeChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		for _, from := range spanningTrees {
			for _, to := range spanningTrees {
				cfg := defaultConfig()
				cfg.STP, cfg.ForwardDelay = from.stp, from.delay
				ensure(t, b, cfg)
				cfg.STP, cfg.ForwardDelay = to.stp, to.delay
				ensure(t, b, cfg)
				got := show(t, name).Info.Data
				if got.STPState != to.state || got.ForwardDelay != to.shown {
					t.Errorf("from %s to %s: STP %d, delay %d, want %d, %d",
						from.name, to.name, got.STPState, got.ForwardDelay, to.state, to.shown)
				}
			}
		}
	})
}

// TestEnsureLeavesTheRootsDelay: below another root the bridge reports that
// one's forward delay, which is no reason to set its own again and again.
func TestEnsureLeavesTheRootsDelay(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		for _, args := range []string{
			"link add switch type bridge stp_state 1 priority 4096 forward_delay 1700",
			"link set switch up",
			"link add l0 type veth peer name s0",
			"link set s0 master switch up",
		} {
			nstest.IP(t, args)
		}
		attach(t, b, index, show(t, "l0").Index, bridge.PortConfig{})
		nstest.Eventually(t, soon, "the switch is the root", func() error {
			if d := show(t, name).Info.Data.ForwardDelay; d != 1700 {
				return fmt.Errorf("forward delay %d", d)
			}
			return nil
		})
		becomesSilent(t, b, defaultConfig())
	})
}
