package dnsd_test

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dnsd"
)

// TestQuietNetworks has many servers that answered and now have nothing to do:
// what one keeps is small, however much it reads at once when it is busy.
func TestQuietNetworks(t *testing.T) {
	const (
		networks = 50
		octets   = 64 << 10 // of heap that one keeps
	)
	nstest.Run(t, func(t *testing.T) {
		before := heap()
		for i := range networks {
			ip := fmt.Sprintf("127.1.0.%d", i+1)
			start(t, dnsd.Config{
				Network: ip, Interface: "lo", Addrs: []netip.Addr{addr(ip)}, NoForward: true,
				Static: []dnsd.Host{{Name: "gateway", Addr: addr(ip)}},
			})
			if r := ask(t, "udp", ip, question("gateway.", dns.TypeA)); len(r.Answer) != 1 {
				t.Fatalf("%s answered %v", ip, r)
			}
		}
		if grown := (heap() - before) / networks; grown > octets {
			t.Errorf("a quiet network keeps %d octets", grown)
		}
	})
}

// heap is what the program holds, without what is only kept in case it is needed.
func heap() int64 {
	var m runtime.MemStats
	for range 3 { // a sync.Pool gives up what it keeps in the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
