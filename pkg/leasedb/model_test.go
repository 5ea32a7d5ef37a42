package leasedb_test

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/leasedb"
)

// envSeed has TestCrashPoints begin with another seed, which it prints.
const envSeed = "VNETD_LEASEDB_SEED"

// small is the size of journals that turn often.
const small = 4 << 10

var networks = []string{"11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"}

// model is what callers were told, and what they were not told: a lease is what it was at
// the last commit that was acknowledged, or at a later one that was not.
type model struct {
	known  map[string]string   // host names by network and address, as acknowledged; no entry: no lease
	maybe  []map[string]string // what it would be with the commits that were not acknowledged, in order
	number int
}

// step is one commit.
type step struct {
	network string
	puts    []dhcpd.Lease
	deletes []netip.Addr
	drop    bool
}

func leaseOf(n int, name string) dhcpd.Lease {
	return dhcpd.Lease{
		Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), MAC: net.HardwareAddr{2, 0, 0, 0, 0, byte(n)},
		Hostname: name, Expiry: time.Unix(1_800_000_000, 0).UTC(), State: dhcpd.StateBound,
	}
}

// random is a commit by chance: a few leases of a small range, so that they are stored
// over each other.
func (m *model) random(r *rand.Rand) step {
	m.number++
	s := step{network: networks[r.IntN(len(networks))]}
	if r.IntN(40) == 0 {
		s.drop = true
		return s
	}
	for _, n := range r.Perm(20)[:1+r.IntN(6)] {
		if r.IntN(4) == 0 {
			s.deletes = append(s.deletes, leaseOf(n, "").Addr)
		} else {
			s.puts = append(s.puts, leaseOf(n, fmt.Sprintf("h%d", m.number)))
		}
	}
	return s
}

func (s step) commit(db *leasedb.DB) error {
	if s.drop {
		return db.Drop(s.network)
	}
	return db.Commit(s.network, s.puts, s.deletes)
}

// with is what is known with a commit.
func (s step) with(known map[string]string) map[string]string {
	next := make(map[string]string)
	for k, v := range known {
		if !s.drop || k[:36] != s.network {
			next[k] = v
		}
	}
	for _, l := range s.puts {
		next[s.network+l.Addr.String()] = l.Hostname
	}
	for _, a := range s.deletes {
		delete(next, s.network+a.String())
	}
	return next
}

// has is what the database has.
func has(t *testing.T, db *leasedb.DB) map[string]string {
	t.Helper()
	got := make(map[string]string)
	for _, n := range networks {
		all, err := db.Load(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range all {
			got[n+l.Addr.String()] = l.Hostname
		}
	}
	return got
}

func equal(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if b[k] != v {
			return false
		}
	}
	return true
}

// run commits until the disk crashes, or so many times.
func (m *model) run(r *rand.Rand, d *disk, commits int) error {
	db, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
	switch {
	case errors.Is(err, errCrashed):
		return nil
	case err != nil || damage != nil:
		return fmt.Errorf("opening: %w, damage %w", err, damage)
	}
	defer func() { _ = db.Close() }()
	m.maybe = nil
	for range commits {
		s := m.random(r)
		last := m.known
		if len(m.maybe) > 0 {
			last = m.maybe[len(m.maybe)-1]
		}
		err := s.commit(db)
		switch {
		case err == nil && len(m.maybe) > 0:
			return errors.New("a commit is acknowledged after the machine has crashed")
		case err == nil:
			m.known = s.with(m.known)
		default:
			m.maybe = append(m.maybe, s.with(last))
			return nil
		}
	}
	return nil
}

// allows reports whether the database may be so.
func (m *model) allows(got map[string]string) bool {
	if equal(got, m.known) {
		return true
	}
	for _, maybe := range m.maybe {
		if equal(got, maybe) {
			return true
		}
	}
	return false
}

// TestCrashPoints has the machine crash at each call that changes something on disk, and
// then again and again in what was left of it: what was acknowledged is there, what was not
// is there as a whole or not at all, and nothing is taken for damage.
func TestCrashPoints(t *testing.T) {
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv(envSeed), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", envSeed, err)
	}
	t.Logf("%s=%d", envSeed, seed)
	for at := 1; at <= 250; at++ {
		for variant := range uint64(3) {
			r := rand.New(rand.NewPCG(seed, uint64(at)<<8|variant))
			m, d := &model{known: map[string]string{}}, newDisk()
			for crash := range 4 {
				d.crash = at
				if crash > 0 {
					d.crash = 1 + r.IntN(120)
				}
				if err := m.run(r, d, 120); err != nil {
					t.Fatalf("crash at call %d, variant %d, the %d. time: %v", at, variant, crash, err)
				}
				d = d.after(r)
				db, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
				if err != nil || damage != nil {
					t.Fatalf("crash at call %d, variant %d, the %d. time: opening: %v, damage %v", at, variant, crash, err, damage)
				}
				got := has(t, db)
				if !m.allows(got) {
					t.Fatalf("crash at call %d, variant %d, the %d. time: there is\n%v\nacknowledged was\n%v\nperhaps\n%v", at, variant, crash, got, m.known, m.maybe)
				}
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				m.known = got
			}
		}
	}
}

// TestRefusals has the disk refuse calls by chance: what was acknowledged is there, at once
// and when the files are read, and when the disk takes everything again so does the database.
func TestRefusals(t *testing.T) {
	for seed := range uint64(200) {
		r, chance := rand.New(rand.NewPCG(seed, 1)), rand.New(rand.NewPCG(seed, 2))
		m, d := &model{known: map[string]string{}}, newDisk()
		db, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
		if err != nil || damage != nil {
			t.Fatal(err, damage)
		}
		for round := range 7 { // the last one on a sound disk
			d.mu.Lock()
			d.refuse = func(string) bool { return round%2 == 1 && chance.IntN(3) == 0 }
			d.mu.Unlock()
			for range 40 {
				s := m.random(r)
				if err := s.commit(db); err == nil {
					m.known = s.with(m.known)
				} else if round%2 == 0 {
					t.Fatalf("seed %d: a commit fails on a sound disk: %v", seed, err)
				}
				if got := has(t, db); !equal(got, m.known) {
					t.Fatalf("seed %d, round %d: there is\n%v\nwant\n%v", seed, round, got, m.known)
				}
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again, damage, err := leasedb.OpenSized(d, slog.New(slog.DiscardHandler), small)
		if err != nil || damage != nil {
			t.Fatalf("seed %d: opening again: %v, damage %v", seed, err, damage)
		}
		if got := has(t, again); !equal(got, m.known) {
			t.Fatalf("seed %d: read again there is\n%v\nwant\n%v", seed, got, m.known)
		}
		_ = again.Close()
	}
}
