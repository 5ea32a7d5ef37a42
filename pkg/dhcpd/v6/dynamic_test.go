package v6_test

import (
	"testing"
	"testing/synctest"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// TestDynamicAddress6 is TestDynamicAddress for DHCPv6.
func TestDynamicAddress6(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		want := ip6(0x50)
		setDynamic(t, e.srv, dhcpd.DynamicReservation{MAC: mac(2), Addr: want, Name: "web"})
		if a := e.lease(2); a != want {
			t.Errorf("the guest got %v, want %v", a, want)
		}
		if l, _ := e.store.Lease(t, want); l.Hostname != "web" {
			t.Errorf("stored %+v, want the name that it was given", l)
		}
		e.srv.DropDynamic(mac(2))
		synctest.Wait()
		if a := e.lease(2); a == want {
			t.Error("the guest still gets the address")
		}
	})
}

// setDynamic must succeed.
func setDynamic(t *testing.T, srv interface {
	SetDynamic(dhcpd.DynamicReservation) error
}, l dhcpd.DynamicReservation,
) {
	t.Helper()
	if err := srv.SetDynamic(l); err != nil {
		t.Fatalf("giving %v to %v: %v", l.Addr, l.MAC, err)
	}
}
