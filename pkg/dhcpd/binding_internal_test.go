package dhcpd

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// Whatever clients say of themselves, and however often that changes, is known as long as it is
// theirs, on disk and as decided; what nobody needs any more takes no more than as much again.
func TestTextsAreThoseOfTheirBindings(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	now := time.Now().UTC().Round(0)
	sp := &Scope{Prefix: netip.MustParsePrefix("10.0.0.0/16"), Ranges: []Range{{Start: netip.MustParseAddr("10.0.0.1"), End: netip.MustParseAddr("10.0.0.200")}}}
	pl := newPool(sp)
	decided, onDisk := make(map[netip.Addr]Lease), make(map[netip.Addr]Lease)
	var writes []write
	tidied := false
	for step := range 40000 {
		if len(writes) > 0 && random.IntN(2) == 0 {
			w := writes[0]
			writes = writes[1:]
			pl.settle(&w, true)
			onDisk[w.addr] = w.lease
			continue
		}
		l := Lease{
			Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + random.IntN(200))}), MAC: []byte{2, 0, 0, 0, byte(random.IntN(20)), byte(random.IntN(256))},
			ClientID: bytes.Repeat([]byte{byte(1 + random.IntN(255))}, 2+random.IntN(200)), Hostname: fmt.Sprintf("host-%d", step),
			Expiry: now.Add(time.Hour), State: StateBound,
		}
		before := pl.texts.Len()
		writes = append(writes, pl.stage(pl.Binding(l.Addr), l))
		decided[l.Addr] = l
		tidied = tidied || pl.texts.Len() < before
		if most := leastTexts + 4*200 + 2; pl.texts.Len() > most {
			t.Fatalf("step %d: %d texts are kept, want at most %d", step, pl.texts.Len(), most)
		}
		if step%100 == 0 {
			if err := samePool(pl, decided, onDisk); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
		}
	}
	if !tidied {
		t.Error("no memory was given back")
	}
}

// samePool tells in what a pool differs from leases as decided and as stored.
func samePool(pl *Pool, decided, onDisk map[netip.Addr]Lease) error {
	alike := func(got, want Lease) bool {
		got.DUID, got.From, want.DUID, want.From = nil, nil, nil, nil
		return reflect.DeepEqual(got, want)
	}
	for a, want := range decided {
		b := pl.Lookup(a)
		if b.None() {
			return fmt.Errorf("%v is not known", a)
		}
		if got := b.Lease(); !alike(got, want) {
			return fmt.Errorf("%v is %+v, want %+v", a, got, want)
		}
		if got := b.durable().lease(&pl.texts, a); !alike(got, onDisk[a]) {
			return fmt.Errorf("%v is stored as %+v, want %+v", a, got, onDisk[a])
		}
		if key := ClientKey(want.MAC) + ClientKey(want.ClientID); b.Key() != key || b.group() != key[:HWAddrLen] {
			return fmt.Errorf("the client of %v is %q of %q, want %q", a, b.Key(), b.group(), key)
		}
		if pl.at(pl.byClient.Get(b.Key())).Key() != b.Key() {
			return fmt.Errorf("the client of %v is not found", a)
		}
	}
	for b := range pl.each() {
		if head := pl.at(pl.groups.Get(b.group())); head.None() || head.group() != b.group() || head.newer != 0 {
			return errors.New("a group has no newest lease")
		}
		if b.older != 0 && pl.at(b.older).newer != b.number {
			return errors.New("the leases of a group don't follow one another")
		}
	}
	return nil
}

// A lease of this process ends when its client thinks so, whatever the clock of the machine is set
// to; what is told of it is the time that was stored.
func TestLeaseEndsByTheClockThatIsNotSet(t *testing.T) {
	now := time.Now()
	m := momentOf(now.Add(time.Hour))
	if got, want := m.Time(), now.Add(time.Hour); !got.Equal(want) {
		t.Errorf("it is %v, want %v", got, want)
	}
	m.wall -= int64(24 * time.Hour) // as if the clock had been set forward since
	r := record{state: bound, expiry: m}
	if !r.live(now.Add(59*time.Minute)) || r.live(now.Add(61*time.Minute)) {
		t.Error("the lease does not end after an hour")
	}
	of := momentOf(now.Round(0)) // that of a former process
	if r := (record{state: bound, expiry: of}); r.live(now.Round(0).Add(time.Second)) || !r.live(now.Round(0).Add(-time.Second)) {
		t.Error("the lease of a former process does not end in time")
	}
	if m := momentOf(time.Time{}); !m.IsZero() || !m.Time().IsZero() {
		t.Errorf("never is %v", m.Time())
	}
}
