package e2espan

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// TestMoveAway has a guest be about to move while all servers of etcd are away: that is
// refused, before it starts to, and it loses nothing.
func TestMoveAway(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, g := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(2, "g", options("g", 7))
		a4 := a.lease()
		g4 := g.lease()
		l.knows(1, g.mac, "h3")
		g.reaches(a4)
		a.reaches(g4)
		s := g.streams(a4)
		for i := range l.etcd {
			l.killEtcd(i)
		}
		l.isAway(1)
		_, err := l.port(1, options("g", 7))
		if t.Logf("refused: %v", err); !errors.Is(err, api.Busy) {
			t.Errorf("the move is refused by %v, want Busy", err)
		}
		a.reaches(g4)
		s.lost()
	})
}

// TestSmallPool has one host's guests need all addresses that there are: the others give
// theirs up.
func TestSmallPool(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.63", 16)
		begin := time.Now()
		l.come(l.crowd(0), 0, 0, 64)
		t.Logf("64 guests have all 64 addresses after %v", time.Since(begin).Round(time.Millisecond))
		if n := strings.Count(l.ctl(0, "", "leases", "apps", "--format", "{{.address}}"), "10.50.1."); n != 64 {
			t.Errorf("%d leases, want 64", n)
		}
		l.sound()
		l.check()
	})
}

// TestOwnerAway has a guest move to another host with its address, and the host whose block
// that is of be cut off. The guest gives it back, and the host gives all that it has, but
// not that.
func TestOwnerAway(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		was := l.guest(2, "g", options("g", 7))
		had := was.lease()
		l.knows(0, was.mac, "h3")
		is := l.guest(0, "g2", options("g", 7))
		_ = is.Command(t.Context(), "arping", "-c1", "10.50.0.1").Run() // it sends
		l.knows(1, was.mac, "h1")
		if again := is.lease(); again != had {
			t.Errorf("the guest has %s after its move, had %s", again, had)
		}
		_ = was.port.Close()
		l.knows(1, was.mac, "h1")
		l.part(2, true)
		l.isSilent(2)
		addr := netip.MustParseAddr(had)
		is.release(addr)
		l.hasNo(0, had)
		crowd := l.crowd(2)
		n := l.fill(crowd, 2)
		if mac := l.book.of(addr); mac != "" && mac != is.mac {
			t.Errorf("%v, which is of a block of the host that is cut off, is given to %s", addr, mac)
		}
		t.Logf("the host that is cut off gives %d addresses, and not %v", n, addr)
		l.part(2, false)
		l.isBack(2, time.Now())
		l.come(crowd, 2, 500, 520)
		l.sound()
		l.check()
	})
}

// isAway waits until a host says that the cluster is away.
func (l *lab) isAway(i int) {
	l.Helper()
	nstest.Eventually(l, limit, l.hosts[i].Name+" says that the cluster is away", func() error {
		if out := l.hosts[i].Vnetctl(l.Context(), "", "cluster", "status").Stdout; !strings.Contains(out, "away") {
			return errors.New(out)
		}
		return nil
	})
}

// hasNo waits until a host holds no lease of an address.
func (l *lab) hasNo(i int, address string) {
	l.Helper()
	nstest.Eventually(l, limit, "the lease is over", func() error {
		if out := l.ctl(i, "", "leases", "apps", "--format", "{{.address}}"); strings.Contains(out, address+"\n") {
			return errors.New(out)
		}
		return nil
	})
}

// fill has guests come on a host until it has no more addresses, and returns how many got one.
func (l *lab) fill(c *crowd, i int) (n int) {
	l.Helper()
	for n < 256 {
		if _, err := c.lease(card(i, n)); errors.Is(err, errSilent) {
			break
		} else if err != nil {
			l.Error(err)
			break
		}
		n++
	}
	return n
}
