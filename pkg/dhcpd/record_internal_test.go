package dhcpd

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
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
	var kept index.Texts
	var former index.Place
	for range 2000 {
		l := Lease{
			Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(256))}), MAC: some(6), ClientID: some(300), DUID: some(130), From: some(6),
			Hostname: string(some(63)), IAID: random.Uint32(), State: states[1+random.IntN(len(states)-1)], Expiry: time.Now().Add(time.Duration(random.Int64N(1e15))),
		}
		if random.IntN(4) == 0 {
			l.Expiry = time.Time{}
		}
		r, want := l.pack(&kept, former), l
		want.Expiry = l.Expiry.Round(0).UTC()
		if got := r.lease(&kept, l.Addr); !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if now := time.Now().Add(time.Duration(random.Int64N(1e15))); r.live(now) != l.live(now) || r.BoundAt(now) != l.BoundAt(now) {
			t.Fatalf("%+v is live at %v: %v", l, now, r.live(now))
		}
		former = r.text
		if again := l.pack(&kept, former); again != r {
			t.Fatalf("%+v is kept as %+v, and again as %+v", l, r, again)
		}
	}
	if r := (&Lease{}).pack(&kept, former); !r.blank() || !reflect.DeepEqual(r.lease(&kept, netip.IPv4Unspecified()), Lease{}) {
		t.Errorf("of nothing %+v is kept", r)
	}
}
