package tap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/tap"
)

// parent makes a cable and returns the ifindex of its end lan0.
func parent(t *testing.T) int {
	t.Helper()
	nstest.IP(t, "link add lan0 type veth peer name peer0")
	nstest.IP(t, "link set lan0 up")
	nstest.IP(t, "link set peer0 up")
	ifi, err := net.InterfaceByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	return ifi.Index
}

func macvtap(t *testing.T, cfg tap.MacvtapConfig) *tap.Macvtap {
	t.Helper()
	m, err := tap.CreateMacvtap(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func TestCreateMacvtap(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		on, mac := parent(t), parseMAC(t, "52:54:00:00:53:01")
		for mode, shown := range map[string]string{"bridge": "bridge", "vepa": "vepa", "private": "private", "passthrough": "passthru"} {
			m := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: mode, MAC: mac, Alias: "mine", Queues: 2, VnetHdr: true, Nodes: t.TempDir()})
			if err := tap.SetUp(m.Index); err != nil {
				t.Error(err)
			}
			got := nstest.IP(t, "-d link show dev vnet0")
			for _, part := range []string{"macvtap mode " + shown + " ", mac.String(), "alias mine", "vnet0@lan0", ",UP"} {
				if !strings.Contains(got, part) {
					t.Errorf("%s: no %q in %s", mode, part, got)
				}
			}
			for _, f := range m.Files {
				checkDescriptor(t, f, unix.IFF_TAP|unix.IFF_NO_PI|unix.IFF_VNET_HDR|unix.IFF_MULTI_QUEUE)
			}
			if len(m.Files) != 2 {
				t.Errorf("%s: %d descriptors", mode, len(m.Files))
			}
			if err := errors.Join(m.Close(), m.Delete("")); err != nil {
				t.Error(err)
			}
		}
		if left := nstest.IP(t, "-br link show type macvtap"); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}

func TestMacvtapErrors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		on, nodes := parent(t), t.TempDir()
		mac := parseMAC(t, "52:54:00:00:53:01")
		first := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: "bridge", MAC: mac, Name: "taken", Nodes: nodes})
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "link set peer0 master br0")
		peer, err := net.InterfaceByName("peer0")
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			what string
			cfg  tap.MacvtapConfig
			want error
		}{
			{"no parent", tap.MacvtapConfig{Parent: 9999, Mode: "bridge"}, tap.ErrGone},
			{"a bridge's port", tap.MacvtapConfig{Parent: peer.Index, Mode: "bridge"}, tap.ErrParentBusy},
			{"passthrough beside others", tap.MacvtapConfig{Parent: on, Mode: "passthrough"}, tap.ErrParentBusy},
			{"a taken name", tap.MacvtapConfig{Parent: on, Mode: "bridge", Name: "taken"}, tap.ErrExists},
			{"another mode", tap.MacvtapConfig{Parent: on, Mode: "source"}, nil},
			{"queues", tap.MacvtapConfig{Parent: on, Mode: "bridge", Queues: 257}, nil},
			{"a name that none can have", tap.MacvtapConfig{Parent: on, Mode: "bridge", Name: "a/b"}, nil},
		} {
			tt.cfg.Nodes = nodes
			m, err := tap.CreateMacvtap(tt.cfg)
			if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Errorf("%s: %+v, %v, want %v", tt.what, m, err, tt.want)
			}
			if left := strings.Fields(nstest.IP(t, "-br link show type macvtap")); len(left) == 0 || left[0] != "taken@lan0" || strings.Count(strings.Join(left, " "), "@") != 1 {
				t.Errorf("%s: left %v", tt.what, left)
			}
		}
		if err := tap.SetUp(first.Index); err != nil {
			t.Fatal(err)
		}
		second := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: "bridge", MAC: mac, Nodes: nodes})
		if err := tap.SetUp(second.Index); !errors.Is(err, tap.ErrAddressTaken) {
			t.Errorf("up with the address of another: %v", err)
		}
	})
}

// TestHeld follows who has a macvtap device open, over copies of a descriptor, in other
// processes too.
func TestHeld(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := tap.MacvtapConfig{Parent: parent(t), Mode: "bridge", Queues: 2, Nodes: t.TempDir()}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		closed, ready := make(chan string, 100), make(chan struct{})
		var closings tap.Closings
		done := make(chan error, 1)
		go func() {
			done <- closings.Watch(ctx, func() { close(ready) }, func(node string) { closed <- node })
		}()
		<-ready
		m := macvtap(t, cfg)
		other := macvtap(t, cfg)
		if err := closings.Add(m.Node); err != nil {
			t.Fatal(err)
		}
		held := func(want bool) {
			t.Helper()
			nstest.Eventually(t, 30*time.Second, fmt.Sprint("whether it is held is ", want), func() error {
				got, err := tap.Held(m.Lock)
				if err == nil && got != want {
					err = fmt.Errorf("%v", got)
				}
				return err
			})
		}
		held(true)
		if got, err := tap.Held(other.Lock); err != nil || !got || other.Lock == m.Lock {
			t.Errorf("the other: %v, %v, %q and %q", got, err, m.Lock, other.Lock)
		}
		fd, err := unix.FcntlInt(m.Files[1].Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		held(true)
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		held(false)
		if node := <-closed; node != m.Node {
			t.Errorf("told of %q, want %q", node, m.Node)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watching: %v", err)
		}
	})
}

// TestReopenMacvtap opens a device again that nobody has open.
func TestReopenMacvtap(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		cfg := tap.MacvtapConfig{Parent: parent(t), Mode: "bridge", Queues: 2, Nodes: t.TempDir()}
		m := macvtap(t, cfg)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := tap.ReopenMacvtap(tap.MacvtapConfig{Name: m.Name, Queues: 2, Nodes: cfg.Nodes}, m.Index)
		if err != nil || again.Lock != m.Lock || len(again.Files) != 2 {
			t.Fatalf("opened again: %+v, %v", again, err)
		}
		if held, err := tap.Held(m.Lock); err != nil || !held {
			t.Errorf("held: %v, %v", held, err)
		}
		if err := errors.Join(again.Close(), again.Delete(cfg.Nodes)); err != nil {
			t.Fatal(err)
		}
		if _, err := tap.ReopenMacvtap(tap.MacvtapConfig{Name: m.Name}, m.Index); !errors.Is(err, tap.ErrGone) {
			t.Errorf("opened when it is gone: %v", err)
		}
	})
}

// TestNodeOfItsOwn has a device node made where /dev has none.
func TestNodeOfItsOwn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		on := parent(t)
		// As in a container, but for what the test itself needs of /dev.
		if err := unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		nodes := filepath.Join(t.TempDir(), "nodes")
		m := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: "bridge", Nodes: nodes})
		if filepath.Dir(m.Node) != nodes {
			t.Errorf("the node is %s", m.Node)
		}
		if held, err := tap.Held(m.Lock); err != nil || !held {
			t.Errorf("held: %v, %v", held, err)
		}
		if err := errors.Join(m.Close(), m.Delete(nodes)); err != nil {
			t.Error(err)
		}
		if left, err := os.ReadDir(nodes); err != nil || len(left) != 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	})
}

// TestSource tells which card a guest has by what it sends, and not by what it receives.
func TestSource(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		on, nodes := parent(t), t.TempDir()
		mine, other := parseMAC(t, "52:54:00:00:53:01"), parseMAC(t, "52:54:00:00:53:02")
		a := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: "bridge", MAC: mine, Nodes: nodes})
		b := macvtap(t, tap.MacvtapConfig{Parent: on, Mode: "bridge", MAC: other, Nodes: nodes})
		for _, index := range []int{a.Index, b.Index} {
			if err := tap.SetUp(index); err != nil {
				t.Fatal(err)
			}
		}
		card := parseMAC(t, "52:54:00:12:34:56")
		frames := make(chan struct{})
		var sending sync.WaitGroup
		defer sending.Wait() // before the files are closed
		defer close(frames)
		sending.Go(func() {
			for {
				select {
				case <-frames:
					return
				case <-time.After(10 * time.Millisecond):
				}
				broadcast := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
				_, _ = b.Files[0].Write(frameOf(broadcast, other)) // which a receives
				_, _ = a.Files[0].Write(frameOf(broadcast, parseMACs("01:00:5e:00:00:01")))
				_, _ = a.Files[0].Write(frameOf(broadcast, card))
			}
		})
		got, err := tap.Source(t.Context(), a.Index, func(mac net.HardwareAddr) bool { return true })
		if err != nil || got.String() != card.String() {
			t.Errorf("%v, %v, want %v", got, err, card)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := tap.Source(ctx, a.Index, func(net.HardwareAddr) bool { return false }); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		go func() { _ = a.Delete(nodes) }()
		if _, err := tap.Source(t.Context(), a.Index, func(net.HardwareAddr) bool { return false }); err == nil {
			t.Error("the device is gone, and nothing is said")
		}
	})
}

func frameOf(to, from net.HardwareAddr) []byte {
	return append(append(append([]byte(nil), to...), from...), append([]byte{0x88, 0xb5}, make([]byte, 50)...)...)
}

func parseMACs(s string) net.HardwareAddr {
	mac, _ := net.ParseMAC(s)
	return mac
}
