package e2espan

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// TestAway has all servers of etcd be killed. Guests renew and come, find each other by
// name, and lose no packet, while vnetd of one host is killed and started again.
func TestAway(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, b, c := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"}), l.guest(2, "c", client.PortOptions{Name: "c"})
		a4, b4, c4 := a.lease(), b.lease(), c.lease()
		a.finds("c", c4)
		b.finds("a", a4)
		b.finds("c", c4)
		a.reaches(b4)
		b.reaches(c4)
		ab, bc := a.streams(b4), b.streams(c4)
		for i := range l.etcd {
			l.killEtcd(i)
		}
		for _, x := range []struct {
			g   *guest
			had string
		}{{a, a4}, {b, b4}, {c, c4}} {
			if again := x.g.lease(); again != x.had {
				t.Errorf("guest %s has %s, had %s", x.g.Name, again, x.had)
			}
		}
		d := l.guest(0, "d", client.PortOptions{Name: "d"})
		d4 := d.lease()
		d.reaches(b4)
		d.finds("b", b4)
		l.hosts[1].KillVnetd()
		l.hosts[1].StartVnetd()
		l.stillKnows(1, a, c)
		e := l.guest(1, "e", client.PortOptions{Name: "e"})
		e.lease()
		e.finds("c", c4)
		if again := b.lease(); again != b4 {
			t.Errorf("after a restart guest b has %s, had %s", again, b4)
		}
		c.finds("a", a4)
		ab.lost()
		bc.lost()
		l.idles()
		for i := range l.etcd {
			l.startEtcd(i)
		}
		c.finds("d", d4)
		l.settled()
		l.check()
	})
}

// TestUnanswered has all servers of etcd stand still, which nobody notices for seconds: a guest that would
// move is refused before it does, at once, loses nothing, and may move once they go on.
func TestUnanswered(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, g := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "g", options("g", 7))
		a.lease()
		g4 := g.lease()
		a.reaches(g4)
		l.whole(g.mac, "h2", time.Now())
		l.knows(2, g.mac, "h2")
		ag := a.streams(g4)
		signal := func(s syscall.Signal) {
			t.Helper()
			for i := range l.etcd {
				if err := l.etcd[i].Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
		}
		signal(syscall.SIGSTOP)
		begin := time.Now()
		_, err := l.bus[2].RequestPort(t.Context(), "apps", options("g", 7))
		if t.Logf("refused after %v", time.Since(begin).Round(time.Millisecond)); !errors.Is(err, api.Busy) {
			t.Errorf("a guest moves while etcd does not answer: %v", err)
		}
		signal(syscall.SIGCONT)
		ag.lost()
		is := l.guest(2, "g2", options("g", 7))
		l.whole(g.mac, "h3", begin)
		nstest.Eventually(t, limit, "the new host has the guest's lease", func() error {
			if out := l.ctl(2, "", "leases", "apps"); !strings.Contains(out, g4) {
				return errors.New(out)
			}
			return nil
		})
		if again := is.lease(); again != g4 {
			t.Errorf("the guest has %s, had %s", again, g4)
		}
		l.check()
	})
}

// stillKnows fails the test where a host that was started while etcd is away does not know
// where guests are.
func (l *lab) stillKnows(i int, guests ...*guest) {
	l.Helper()
	fdb := l.hosts[i].Exec("bridge", "fdb", "show", "dev", "vx7")
	for _, g := range guests {
		if !strings.Contains(fdb, g.mac+" dst ") {
			l.Errorf("h%d does not know where guest %s is any more:\n%s", i+1, g.Name, fdb)
		}
	}
}

// idles measures what vnetd needs while etcd is away.
func (l *lab) idles() {
	l.Helper()
	const period = 10 * time.Second
	var before [3]time.Duration
	for i, h := range l.hosts {
		before[i] = cpu(l.T, h.VnetdPID())
	}
	begin := time.Now()
	time.Sleep(period) // it is measured
	for i, h := range l.hosts {
		share := 100 * float64(cpu(l.T, h.VnetdPID())-before[i]) / float64(time.Since(begin))
		if l.Logf("vnetd of h%d has %.1f %% of a processor while etcd is away", i+1, share); share >= 2 {
			l.Errorf("vnetd of h%d has %.1f %% of a processor while etcd is away, want less than 2", i+1, share)
		}
	}
}
