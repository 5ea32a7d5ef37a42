package upstream

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestPatience: of those who go on with a question at the same time one does: the reader of
// its answer, whoever abandons it, or late, once it has waited for too long; and an answer
// that is late is passed on.
func TestPatience(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed:", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const questions = 2000
	goneOn := make(map[*InFlight]*atomic.Int32)
	var over sync.WaitGroup
	once := func(f *InFlight) {
		if goneOn[f].Add(1) == 1 {
			over.Done()
		}
	}
	var passed atomic.Int32
	p := newPatience(func(f *InFlight) {
		go func() {
			<-f.first.pending.answer
			passed.Add(1)
			once(f)
		}()
	})
	all := make([]*InFlight, questions)
	waits := make([]time.Duration, questions)
	for i := range all {
		all[i] = new(InFlight)
		goneOn[all[i]] = new(atomic.Int32)
		waits[i] = time.Duration(random.IntN(100)) * time.Microsecond
	}
	over.Add(questions)
	for i, f := range all {
		p.add(f, time.Millisecond, time.Now())
		over.Go(func() {
			time.Sleep(20 * waits[i]) // some are late by then
			if p.claim(&f.place) {
				once(f)
			} else {
				p.pass(f, answer{})
			}
		})
	}
	over.Wait()
	for _, f := range all {
		if n := goneOn[f].Load(); n != 1 {
			t.Fatalf("%d go on with a question", n)
		}
	}
	if p.list.next != &p.list || p.list.prev != &p.list {
		t.Error("somebody waits still")
	}
	t.Log(passed.Load(), "were late")
	if passed.Load() == 0 || passed.Load() == questions {
		t.Error("not tried: answers in time and late ones")
	}
}

// TestPatienceTake: those that are picked wait no more, the others go on to.
func TestPatienceTake(t *testing.T) {
	p := newPatience(nil)
	var all []*InFlight
	for range 5 {
		f := new(InFlight)
		all = append(all, f)
		p.add(f, time.Hour, time.Now())
	}
	taken := p.take(func(f *InFlight) bool { return f == all[1] || f == all[4] })
	if len(taken) != 2 || taken[0] != all[1] || taken[1] != all[4] {
		t.Error("others are taken")
	}
	for i, f := range all {
		if waits := p.claim(&f.place); waits != (i != 1 && i != 4) {
			t.Errorf("question %d waits: %t", i, waits)
		}
	}
	p.timer.Stop()
}
