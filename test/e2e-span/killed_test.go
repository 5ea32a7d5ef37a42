package e2espan

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// TestKilled has vnetd of each host be killed at moments by chance while guests come, renew,
// move and go. No address is acknowledged to two cards, and all is in step afterwards.
func TestKilled(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const rounds, workers = 12, 4
		l := newLab(t)
		l.define("10.50.1.0", "10.50.8.255", 16)
		a := l.guest(0, "a", client.PortOptions{Name: "a"})
		a4 := a.lease()
		crowds := [3]*crowd{l.crowd(0), l.crowd(1), l.crowd(2)}
		stop := make(chan struct{})
		var group sync.WaitGroup
		var mu sync.Mutex
		var got [3]int
		for i, c := range crowds {
			c.patience = 300 * time.Millisecond
			for w := range workers {
				group.Go(func() {
					n := l.mix(c, i, w*1000, stop)
					mu.Lock()
					defer mu.Unlock()
					got[i] += n
				})
			}
		}
		mover := options("m", 9)
		var last *client.OpenPort
		at, moves := 1, 0
		lots := rand.New(rand.NewPCG(1, 2))
		for range rounds {
			if p := l.move(&at, mover); p != nil {
				if last != nil {
					_ = last.Close()
				}
				last, moves = p, moves+1
			}
			time.Sleep(time.Duration(lots.IntN(400)) * time.Millisecond) // the moment is by chance
			i := lots.IntN(3)
			l.hosts[i].KillVnetd()
			l.hosts[i].StartVnetd()
		}
		close(stop)
		group.Wait()
		t.Logf("%d kills, %d moves, leases of crowds: %v", rounds, moves, got)
		l.settled()
		a.reaches("10.50.0.1")
		if again := a.lease(); again != a4 {
			t.Errorf("guest a has %s, had %s", again, a4)
		}
		if last != nil {
			l.whole(last.Info.MAC, l.hosts[at].Name, time.Now())
		}
		l.sound()
		l.check()
	})
}

// move has the guest be plugged in on the other one of two hosts as well, and send there. It
// returns nil where that host does not take it now.
func (l *lab) move(at *int, o client.PortOptions) *client.OpenPort {
	next := 3 - *at
	ctx, cancel := context.WithTimeout(l.Context(), 3*time.Second)
	defer cancel()
	p, err := l.bus[next].RequestPort(ctx, "apps", o)
	if err != nil {
		l.Logf("not moved to h%d: %v", next+1, err)
		return nil
	}
	l.Cleanup(func() { _ = p.Close() })
	frame := make([]byte, 60)
	copy(frame, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(frame[6:], o.MAC)
	frame[12], frame[13] = 0x88, 0xb5 // for experiments (IEEE 802)
	_, _ = p.Files[0].Write(frame)
	*at = next
	return p
}

// mix has guests of a crowd come and renew until stop is closed. It returns how many came.
func (l *lab) mix(c *crowd, i, first int, stop <-chan struct{}) (came int) {
	var all []granted
	for n := first; ; n++ {
		select {
		case <-stop:
			return came
		default:
		}
		addr, err := c.lease(card(i, n))
		if err == nil {
			all, came = append(all, granted{host: i, n: n, addr: addr}), came+1
		} else if !errors.Is(err, errSilent) {
			l.Logf("h%d: %v", i+1, err)
		}
		if len(all) > 0 && n%3 == 0 {
			old := all[n%len(all)]
			if err := c.renew(card(i, old.n), old.addr); err != nil && !errors.Is(err, errSilent) {
				l.Error(fmt.Errorf("renewal of %v on h%d: %w", old.addr, i+1, err))
			}
		}
		if came >= 150 {
			<-stop
			return came
		}
	}
}
