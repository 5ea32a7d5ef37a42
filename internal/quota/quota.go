// Package quota bounds what one user has the daemon do at a time: calls that wait
// for their answers, memory that these take, and work. Root has no bounds.
package quota

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// What each user may. A user who asks more often waits, and who has too much waiting
// is refused. Honest use stays below: a call that waits for each of a user's guests,
// and virsh, which asks four times about every network that it lists.
const (
	maxPending = 512     // calls that are not answered yet
	maxBytes   = 8 << 20 // of their arguments
	perSecond  = 1000    // calls, and twice as many at once

	// workShare is how much of one processor calls may take in the long run, in
	// thousandths, workAhead how many milliseconds in advance.
	workShare = 250
	workAhead = 2000

	// maxWorking is how many calls of all users are worked on at a time, of each
	// user one.
	maxWorking = 4

	maxUnread = 16 << 20 // bytes of answers that wait for the user's clients to read them
)

// Users are the users that have called.
type Users struct {
	working chan struct{}
	used    func() time.Duration // the processor's time that this thread has used

	mu    sync.Mutex
	users map[uint32]*User
}

// New returns Users of whom none has called.
func New() *Users {
	return &Users{working: make(chan struct{}, maxWorking), used: threadTime, users: make(map[uint32]*User)}
}

// User is one user, nil is root.
type User struct {
	all   *Users
	turn  chan struct{} // its one call that is worked on
	calls *rate.Limiter
	work  *rate.Limiter // in milliseconds

	mu      sync.Mutex
	pending int
	bytes   int
	unread  int
}

// Of returns the user with the uid.
func (us *Users) Of(uid uint32) *User {
	if uid == 0 {
		return nil
	}
	us.mu.Lock()
	defer us.mu.Unlock()
	if us.users[uid] == nil {
		us.users[uid] = us.Unknown()
	}
	return us.users[uid]
}

// Unknown returns a user who is no other: a caller of whom is not known yet who it is.
func (us *Users) Unknown() *User {
	return &User{
		all: us, turn: make(chan struct{}, 1),
		calls: rate.NewLimiter(perSecond, 2*perSecond), work: rate.NewLimiter(workShare, workAhead),
	}
}

// Admit takes a call with so many bytes of arguments, until done is called, or
// returns an error that says how many the user has already. done may be called twice.
func (u *User) Admit(bytes int) (done func(), err error) {
	if u == nil {
		return func() {}, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.pending >= maxPending:
		return nil, fmt.Errorf("%d calls wait for their answers already, and no more may", u.pending)
	case u.pending > 0 && u.bytes+bytes > maxBytes:
		return nil, fmt.Errorf("the calls that wait for their answers have %d bytes already, and with this one more than %d", u.bytes, maxBytes)
	}
	u.pending++
	u.bytes += bytes
	return sync.OnceFunc(func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.pending--
		u.bytes -= bytes
	}), nil
}

// Keep counts bytes of answers that the user's clients have not read, until as many
// were released, and reports whether there is room for them.
func (u *User) Keep(bytes int) bool {
	if u == nil {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.unread > maxUnread {
		return false
	}
	u.unread += bytes
	return true
}

// Release ends the counting of bytes that were kept.
func (u *User) Release(bytes int) {
	if u == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unread -= bytes
}

// Pace waits until the user may make one call more; the error is ctx's.
func (u *User) Pace(ctx context.Context) error {
	if u == nil {
		return nil
	}
	return wait(ctx, u.calls)
}

// Work waits until the user's call may be worked on, which it is until done is
// called, by this goroutine alone; the error is ctx's.
func (u *User) Work(ctx context.Context) (done func(), err error) {
	if u == nil {
		return func() {}, nil
	}
	if err := take(ctx, u.turn); err != nil {
		return nil, err
	}
	if err = wait(ctx, u.work); err == nil {
		err = take(ctx, u.all.working)
	}
	if err != nil {
		<-u.turn
		return nil, err
	}
	runtime.LockOSThread()
	began := u.all.used()
	return func() {
		u.charge(u.all.used() - began)
		runtime.UnlockOSThread()
		<-u.all.working
		<-u.turn
	}, nil
}

// threadTime is what CLOCK_THREAD_CPUTIME_ID says (clock_gettime(2)).
func threadTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0 // the kernel has had this clock since 2.6.12
	}
	return time.Duration(ts.Nano())
}

// charge has the next call wait for what one took.
func (u *User) charge(took time.Duration) {
	now := time.Now()
	for ms := int(took.Milliseconds()); ms > 0; ms -= workAhead {
		u.work.ReserveN(now, min(ms, workAhead))
	}
}

// take fills a place of slots; the error is ctx's.
func take(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait takes one token, however long that lasts; the error is ctx's. Limiter.Wait
// returns at once where ctx has a deadline that comes before: who is refused at once
// asks again at once.
func wait(ctx context.Context, l *rate.Limiter) error {
	r := l.Reserve()
	delay := r.Delay()
	if delay == 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		return ctx.Err()
	}
}
