package dhcpd

import (
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// TestFormerBindingsStay: who still reads the bindings of a former plan reads what is on disk of
// each, whatever the present ones store.
func TestFormerBindingsStay(t *testing.T) {
	now := time.Now().UTC().Round(0)
	sp := &Scope{Prefix: netip.MustParsePrefix("192.0.2.0/24"), Ranges: []Range{{Start: netip.MustParseAddr("192.0.2.2"), End: netip.MustParseAddr("192.0.2.9")}}}
	lease := func(last byte) Lease {
		return Lease{Addr: netip.AddrFrom4([4]byte{192, 0, 2, last}), MAC: []byte{2, 0, 0, 0, 0, last}, State: StateBound, Expiry: now.Add(time.Hour)}
	}
	former, present := newPool(sp), newPool(sp)
	stored := lease(2)
	former.load([]Lease{stored}, now)
	b := former.Binding(stored.Addr)
	renewed := stored
	renewed.Expiry = now.Add(2 * time.Hour)
	w := former.stage(b, renewed)
	present.adopt(former.Bindings, now)
	present.settle(&w, true)
	other := lease(3)
	present.load([]Lease{other}, now)
	present.stage(present.Binding(other.Addr), other)
	if got := b.durable().lease(&former.texts, b.Addr()); !reflect.DeepEqual(got, stored) {
		t.Errorf("of %v is stored %+v, want %+v", b.Addr(), got, stored)
	}
}
