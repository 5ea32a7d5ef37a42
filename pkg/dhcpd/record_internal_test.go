package dhcpd

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// What is kept of a lease is the lease.
func TestRecordIsItsLease(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	some := func(most int) []byte {
		if random.IntN(3) == 0 {
			return nil
		}
		return bytes.Repeat([]byte{byte(random.IntN(256))}, 1+random.IntN(most))
	}
	for range 2000 {
		l := Lease{
			Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(256))}), MAC: some(6), ClientID: some(300), DUID: some(130), From: some(6),
			Hostname: string(some(63)), IAID: random.Uint32(), State: states[1+random.IntN(len(states)-1)], Expiry: time.Now().Add(time.Duration(random.Int64N(1e15))),
		}
		if random.IntN(4) == 0 {
			l.Expiry = time.Time{}
		}
		r := l.pack()
		if got := r.lease(l.Addr); !reflect.DeepEqual(got, l) {
			t.Fatalf("got  %+v\nwant %+v", got, l)
		}
		if now := time.Now().Add(time.Duration(random.Int64N(1e15))); r.live(now) != l.live(now) || r.BoundAt(now) != l.BoundAt(now) {
			t.Fatalf("%+v is live at %v: %v", l, now, r.live(now))
		}
	}
	if r := (&Lease{}).pack(); !r.blank() || !reflect.DeepEqual(r.lease(netip.IPv4Unspecified()), Lease{}) {
		t.Errorf("of nothing %+v is kept", r)
	}
}
