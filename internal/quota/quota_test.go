package quota

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestAdmit holds how much of one user may wait, and that another's call and root's
// are not counted with it.
func TestAdmit(t *testing.T) {
	us := New()
	var done []func()
	for range maxPending {
		d, err := us.Of(7).Admit(1)
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, d)
	}
	if _, err := us.Of(7).Admit(1); err == nil {
		t.Errorf("call %d of one user was admitted", maxPending+1)
	}
	for _, uid := range []uint32{8, 0} {
		if _, err := us.Of(uid).Admit(maxBytes); err != nil {
			t.Errorf("a call of user %d: %v", uid, err)
		}
	}
	done[0]()
	done[0]()
	if _, err := us.Of(7).Admit(1); err != nil {
		t.Errorf("after one was answered: %v", err)
	}
	if _, err := us.Of(7).Admit(1); err == nil {
		t.Error("one answer made room for two calls")
	}
	if _, err := us.Of(8).Admit(1); err == nil {
		t.Errorf("user 8 may have more than %d bytes waiting", maxBytes)
	}
}

// TestKeep holds that answers that nobody reads are bounded, and come to nothing when
// they are released.
func TestKeep(t *testing.T) {
	us, kept := New(), 0
	for us.Of(7).Keep(1 << 20) {
		if kept += 1 << 20; kept > maxUnread+1<<20 {
			t.Fatalf("%d bytes are kept, want at most %d", kept, maxUnread)
		}
	}
	if !us.Of(8).Keep(maxUnread) || !us.Of(0).Keep(2*maxUnread) || !us.Of(0).Keep(1) {
		t.Error("others have no room")
	}
	us.Of(7).Release(kept)
	if !us.Of(7).Keep(1) {
		t.Error("there is no room when all was read")
	}
}

// TestWork holds that one user has one call worked on at a time, in the long run for
// a quarter of the time, and that this is nothing to others.
func TestWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		us, began := New(), time.Now()
		us.used = func() time.Duration { return time.Since(began) }
		busy := func(uid uint32, took time.Duration) {
			done, err := us.Of(uid).Work(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(took)
			done()
		}
		var worked time.Duration
		for time.Since(began) < time.Minute {
			busy(7, time.Second)
			worked += time.Second
		}
		if worked > 20*time.Second || worked < 14*time.Second {
			t.Errorf("of one minute, one user's calls were worked on for %v, want about 17 s", worked)
		}
		now := time.Now()
		busy(8, 0)
		busy(0, 0)
		if waited := time.Since(now); waited != 0 {
			t.Errorf("others waited for %v", waited)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		first, err := us.Of(9).Work(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := us.Of(9).Work(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second call of one user at the same time: %v", err)
		}
		first()
	})
}

// TestWorkIsProcessorTime holds that a call that waits is not charged for it.
func TestWorkIsProcessorTime(t *testing.T) {
	u := New().Of(7)
	for _, loop := range []bool{false, true} {
		done, err := u.Work(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if loop {
			for began := threadTime(); threadTime()-began < 400*time.Millisecond; { // however long that takes
			}
		} else {
			time.Sleep(500 * time.Millisecond)
		}
		before := u.work.Tokens()
		done()
		if charged := before - u.work.Tokens(); loop != (charged > 50) {
			t.Errorf("a call (busy: %v) was charged with %.0f ms", loop, charged)
		}
	}
}

// TestPace holds that calls come through at their rate, not refused.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u, began := New().Of(7), time.Now()
		for range 12 * perSecond {
			if err := u.Pace(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(began).Round(time.Second); took != 10*time.Second {
			t.Errorf("%d calls took %v, want 10 s", 12*perSecond, took)
		}
		for range 1000 {
			if err := New().Of(0).Pace(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
