package dhcpdtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// MAC returns a client's hardware address (RFC 7042, section 2.1.2).
func MAC(n byte) net.HardwareAddr { return net.HardwareAddr{0, 0, 0x5e, 0, 0x53, n} }

// IP returns an address of the IPv4 link of all tests.
func IP(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }

// IP6 returns an address of the IPv6 link of all tests.
func IP6(n uint16) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0, 1, 14: byte(n >> 8), 15: byte(n)})
}

// EventLog records the events of a server.
type EventLog struct {
	mu  sync.Mutex
	all []string
}

// Add records an event.
func (l *EventLog) Add(e dhcpd.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, fmt.Sprintf("%v %v %v", e.Kind, e.Lease.Addr, e.Lease.MAC))
}

// Take returns what happened since the last call.
func (l *EventLog) Take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// ReplyLimit is how long a reply over a real link may take before the test
// fails.
const ReplyLimit = 30 * time.Second

// MakeBridge makes the bridge of testConfig in the test's namespace.
func MakeBridge(t testing.TB) {
	t.Helper()
	nstest.IP(t, "link add br0 address "+MAC(1).String()+" type bridge")
	nstest.IP(t, "addr add 192.0.2.1/24 dev br0")
	nstest.IP(t, "link set br0 up")
}

// MakeBridge6 makes the bridge, down.
func MakeBridge6(t testing.TB) {
	t.Helper()
	nstest.IP(t, "link add br0 address "+MAC(1).String()+" type bridge")
	nstest.IP(t, "-6 addr add 2001:db8:1::1/64 dev br0")
}

// ClientLimit is how long a real client may take.
const ClientLimit = 30 * time.Second

// RunClient runs a DHCP client in the guest until it ends by itself, and returns
// what it printed.
func RunClient(t *testing.T, guest *nstest.NS, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("this test needs a DHCP client: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), ClientLimit)
	defer cancel()
	out, err := guest.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// Leave ends a server and returns what it leaves.
func Leave(t *testing.T, srv interface {
	Sockets() ([]*os.File, error)
}, stop func() error,
) []*os.File {
	t.Helper()
	left, err := srv.Sockets()
	if err != nil || len(left) != 1 {
		t.Fatalf("left %v, %v", left, err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	return left
}

// CloseAll closes what was left.
func CloseAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
