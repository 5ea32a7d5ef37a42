package e2espan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// options are those of a guest that may have ports on two hosts, as one has that moves.
func options(name string, n byte) client.PortOptions {
	return client.PortOptions{
		Name: name, MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, n},
		OwnerUUID: fmt.Sprintf("11111111-2222-4333-8444-5555555555%02x", n),
	}
}

// owners are the hosts that say that a guest sends from there.
func (l *lab) owners(mac string) (hosts []string, err error) {
	_, list, err := l.snapshot()
	if err != nil {
		return nil, err
	}
	for _, kv := range list.KVs {
		k, err := record.Parse("lab", kv.Key)
		var p record.Port
		if err == nil && k.Kind == record.KindPort && k.ID == mac && record.Decode(kv.Value, &p) == nil && p.State == record.Here {
			hosts = append(hosts, k.Host)
		}
	}
	return hosts, nil
}

// sound fails the test where the store has one address in two blocks, or of two cards.
func (l *lab) sound() {
	l.Helper()
	_, list, err := l.snapshot()
	if err != nil {
		l.Fatal(err)
	}
	var blocks []netip.Prefix
	cards := make(map[string]string)
	for _, kv := range list.KVs {
		k, err := record.Parse("lab", kv.Key)
		if err != nil {
			l.Errorf("%s: %v", kv.Key, err)
			continue
		}
		switch k.Kind {
		case record.KindBlock:
			block, err := record.ParseBlockID(k.ID)
			if err != nil {
				l.Error(err)
			}
			for _, other := range blocks {
				if other.Overlaps(block) {
					l.Errorf("%v and %v are both blocks", other, block)
				}
			}
			blocks = append(blocks, block)
		case record.KindLease:
			var lease record.Lease
			if err := record.Decode(kv.Value, &lease); err != nil {
				l.Error(err)
			}
			if had := cards[k.ID]; had != "" && had != lease.MAC.String() {
				l.Errorf("%s is of %s and of %v", k.ID, had, lease.MAC)
			}
			cards[k.ID] = lease.MAC.String()
		}
	}
	l.Logf("%d blocks, %d addresses: none twice", len(blocks), len(cards))
}

// whole waits until a guest is on one host for all, and tells how long that took.
func (l *lab) whole(mac, host string, begin time.Time) time.Duration {
	l.Helper()
	nstest.Eventually(l, limit, "the guest is on "+host+" alone", func() error {
		hosts, err := l.owners(mac)
		if err == nil && !slices.Equal(hosts, []string{host}) {
			err = fmt.Errorf("it is on %v", hosts)
		}
		return err
	})
	return time.Since(begin)
}

// isBack waits until a host is alive for the others and in step, and tells how long that took.
func (l *lab) isBack(i int, begin time.Time) time.Duration {
	l.Helper()
	name := l.hosts[i].Name
	nstest.Eventually(l, limit, name+" is back", func() error {
		s, _, err := l.snapshot()
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(s.Hosts(), func(h cluster.HostState) bool { return h.Host == name && h.Alive && h.Joined }) {
			return errors.New("it is silent")
		}
		return nil
	})
	took := time.Since(begin)
	nstest.Eventually(l, limit, name+" is in step", func() error {
		if out := l.hosts[i].Vnetctl(l.Context(), "", "cluster", "status").Stdout; strings.Contains(out, "away") {
			return errors.New(out)
		}
		return nil
	})
	return took
}

// isSilent waits until the others take a host for silent.
func (l *lab) isSilent(i int) {
	l.Helper()
	name := l.hosts[i].Name
	nstest.Eventually(l, limit, name+" is silent", func() error {
		s, _, err := l.snapshot()
		if err == nil && slices.ContainsFunc(s.Hosts(), func(h cluster.HostState) bool { return h.Host == name && h.Alive }) {
			err = errors.New("it is alive")
		}
		return err
	})
}

// TestStopped has vnetd of a host be stopped for longer than its session lasts, while a guest
// of it starts on another host and guests come there: nothing is on two hosts afterwards.
func TestStopped(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, g := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(2, "g", options("g", 7))
		a.lease()
		g.lease()
		l.whole(g.mac, "h3", time.Now())
		l.sendSignal(2, syscall.SIGSTOP)
		l.isSilent(2)
		is := l.guest(0, "g2", options("g", 7))
		is.IP("link set eth0 up")
		is4 := is.lease()
		l.come(l.crowd(1), 1, 0, 100)
		l.knows(1, g.mac, "h1")
		begin := time.Now()
		l.sendSignal(2, syscall.SIGCONT)
		took := l.isBack(2, begin)
		one := l.whole(g.mac, "h1", begin)
		if t.Logf("back after %v, one owner after %v", took, one); took >= 2*time.Second || one >= 2*time.Second {
			t.Errorf("back after %v, one owner after %v: want 2 s", took, one)
		}
		a.reaches(is4)
		l.sound()
		l.check()
	})
}

// TestPartition has a host be cut from the wire, a guest of it start on another one, and
// guests come on both sides.
func TestPartition(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.8.255", 64)
		a, g := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(2, "g", options("g", 7))
		a.lease()
		g4 := g.lease()
		l.whole(g.mac, "h3", time.Now())
		l.part(2, true)
		l.isSilent(2)
		is := l.guest(0, "g2", options("g", 7))
		is4 := is.lease()
		if again := g.lease(); again != g4 {
			t.Errorf("the guest on the host that is cut off has %s, had %s", again, g4)
		}
		crowds := [3]*crowd{l.crowd(0), l.crowd(1), l.crowd(2)}
		for i, c := range crowds {
			l.come(c, i, 0, [3]int{50, 50, 30}[i])
		}
		l.knows(1, g.mac, "h1")
		begin := time.Now()
		l.part(2, false)
		back := l.isBack(2, begin)
		one := l.whole(g.mac, "h1", begin)
		t.Logf("after the partition h3 is back after %v, and the guest on one host after %v", back, one)
		if one >= 3*time.Second { // it takes half a second, and more on a machine with other work
			t.Errorf("the guest is on one host after %v, want 3 s", one)
		}
		a.reaches(is4)
		for i, c := range crowds {
			l.come(c, i, 200, 300)
		}
		l.sound()
		l.check()
	})
}

// come has guests of a crowd on a host get addresses.
func (l *lab) come(c *crowd, i, first, end int) {
	l.Helper()
	for n := first; n < end; n++ {
		nstest.Eventually(l, limit, fmt.Sprintf("guest %d of h%d has an address", n, i+1), func() error {
			_, err := c.lease(card(i, n))
			return err
		})
	}
}

// knows waits until a host knows on which host a guest is.
func (l *lab) knows(i int, mac, host string) {
	l.Helper()
	nstest.Eventually(l, limit, fmt.Sprintf("h%d knows that the guest is on %s", i+1, host), func() error {
		r := l.hosts[i].Vnetctl(l.Context(), "", "where", mac, "--format", "{{.host}}")
		if strings.TrimSpace(r.Stdout) != host {
			return errors.New(r.Stdout + r.Stderr)
		}
		return nil
	})
}
