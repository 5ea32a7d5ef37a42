package leasedb

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// What stands on the shelf is what was stored last, whatever was dropped, and takes no more than
// twice its size and a board.
func TestShelfHasWhatWasStored(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	db := &DB{leases: make(map[network]map[address]place)}
	want := make(map[network]map[address]string)
	networks := []network{{1}, {2}, {3}}
	for step := range 60000 {
		n := networks[random.IntN(len(networks))]
		a := netip.AddrFrom4([4]byte{192, 0, byte(random.IntN(8)), byte(random.IntN(256))})
		var r record
		var err error
		switch random.IntN(4) {
		case 0:
			r = appendRemoval(nil, n, a)
			delete(want[n], r.address())
		default:
			l := dhcpd.Lease{Addr: a, MAC: []byte{2, 0, 0, 0, byte(step >> 8), byte(step)}, State: dhcpd.StateBound, ClientID: make([]byte, random.IntN(200))}
			if r, err = appendLease(nil, n, &l); err != nil {
				t.Fatal(err)
			}
			if want[n] == nil {
				want[n] = make(map[address]string)
			}
			want[n][r.address()] = string(r)
		}
		if random.IntN(20000) == 0 {
			r = appendRemoval(nil, n, netip.Addr{})
			delete(want, n)
		}
		db.apply(r)
		memory := 0
		for _, b := range db.shelf.boards {
			memory += cap(b)
		}
		if most := 2*db.shelf.live + 3*boardSize; memory > most {
			t.Fatalf("step %d: %d bytes of records take %d bytes, want at most %d", step, db.shelf.live, memory, most)
		}
	}
	maps.DeleteFunc(want, func(_ network, of map[address]string) bool { return len(of) == 0 })
	if len(db.leases) != len(want) {
		t.Fatalf("there are %d networks, want %d", len(db.leases), len(want))
	}
	for n, of := range want {
		if got := slices.Collect(maps.Keys(db.leases[n])); len(got) != len(of) {
			t.Fatalf("%v has %d leases, want %d", n, len(got), len(of))
		}
		for a, r := range of {
			if got := db.leases[n][a]; got == 0 || string(db.shelf.get(got)) != r {
				t.Fatalf("the record of %v differs", a)
			}
		}
	}
}
