package v4_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// flood is how many clients a hostile guest plays.
const flood = 5000

// A guest with thousands of hardware addresses can take the pool, but neither the
// memory nor what is reserved.
func TestFlood(t *testing.T) {
	simulated(t, nakConfig, func(t *testing.T, e *env) {
		for n := range flood {
			hw := net.HardwareAddr{2, 0, 0, 0, byte(n >> 8), byte(n)}
			e.send(dhcpv4.MessageTypeDiscover, hw)
			e.send(dhcpv4.MessageTypeRequest, hw, requested(ip(byte(n))), serverID(serverAddr), clientID(fmt.Sprint("\x00flood", n)))
			if n%64 == 0 {
				e.drain()
			}
		}
		e.drain()
		if got := known(e); got > 11 {
			t.Errorf("the server knows of %d addresses, the pool has 11", got)
		}
		if got := e.lease(mac(0x20)); got != ip(105) {
			t.Errorf("the reserved client got %v", got)
		}
		if got := e.lease(mac(0x21)); got != ip(50) {
			t.Errorf("the client with a reservation outside the ranges got %v", got)
		}
		time.Sleep(2 * v4.DefaultLeaseTime)
		if got := known(e); got > 13 {
			t.Errorf("the server knows of %d addresses later", got)
		}
		e.lease(mac(2))
	})
}

// known is how many addresses the server knows something of.
func known(e *env) uint64 {
	p := e.srv.Stats().Pool
	return p.Bound + p.Offered + p.Declined + p.Former
}

// drain takes the replies that are there once the server is idle.
func (e *env) drain() {
	e.t.Helper()
	time.Sleep(time.Millisecond)
	for link := e.wire.(simWire).link; len(link.Replies()) > 0; {
		<-link.Replies()
	}
}

// One client that sends without end has its share of the server's time, and others
// theirs.
func TestClientIsLimited(t *testing.T) {
	simulated(t, testConfig, func(t *testing.T, e *env) {
		for range 1000 {
			e.send(dhcpv4.MessageTypeDiscover, mac(2))
			if len(e.wire.(simWire).link.Replies()) > 32 {
				e.drain()
			}
		}
		e.drain()
		got := e.srv.Stats()
		if got.Limited < 900 || got.Discover+got.Limited != 1000 {
			t.Errorf("counted %+v", got)
		}
		e.lease(mac(3))
		time.Sleep(time.Minute)
		e.lease(mac(2))
	})
}
