package e2espan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// TestFull has etcd run out of the room that it may take (its alarm NOSPACE): guests go on,
// renew and come, a vnetd that is started meanwhile knows all guests, and each host says what
// is wrong and what helps. Once the operator has done that, all are in step again.
func TestFull(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.restartEtcd("ETCD_QUOTA_BACKEND_BYTES=4194304")
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, b, c := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"}), l.guest(2, "c", client.PortOptions{Name: "c"})
		a4, b4, c4 := a.lease(), b.lease(), c.lease()
		a.finds("c", c4)
		b.finds("a", a4)
		c.finds("b", b4)
		c.reaches(a4)
		a.reaches(b4)
		l.settled()
		var watches []*removals
		for i := range l.hosts {
			watches = append(watches, l.watchRemovals(i))
		}
		streams := []*stream{c.streams(a4), a.streams(b4)}
		admin := l.admin()
		l.fillUp(admin)
		d := l.guest(0, "d", client.PortOptions{Name: "d"})
		d4 := d.lease()
		d.reaches(c4)
		l.guest(1, "e", client.PortOptions{Name: "e"}).lease()
		l.guest(2, "f", client.PortOptions{Name: "f"}).lease()
		for _, g := range []struct {
			*guest
			had string
		}{{a, a4}, {b, b4}, {c, c4}} {
			if again := g.lease(); again != g.had {
				t.Errorf("guest %s has %s, had %s", g.Name, again, g.had)
			}
		}
		for i := range l.hosts {
			l.isFull(i)
		}
		l.hosts[1].KillVnetd()
		l.hosts[1].StartVnetd()
		l.isFull(1)
		l.stillKnows(1, a, c)
		if again := b.lease(); again != b4 {
			t.Errorf("after a restart guest b has %s, had %s", again, b4)
		}
		l.makeRoom(admin)
		begin := time.Now()
		l.settled()
		c.finds("d", d4)
		t.Logf("in step %v after there is room", time.Since(begin).Round(time.Millisecond))
		for _, s := range streams {
			s.lost()
		}
		for i, w := range watches {
			if removed := w.end(); len(removed) > 0 {
				t.Errorf("h%d removed entries: %v", i+1, removed)
			}
		}
		l.sound()
		l.check()
	})
}

// restartEtcd starts all servers again with one setting more each.
func (l *lab) restartEtcd(setting string) {
	l.Helper()
	for i, h := range l.hosts {
		l.killEtcd(i)
		h.Exec("sh", "-ec", "echo \"$1\" >>/etc/etcd/etcd.env", "sh", setting)
		l.startEtcd(i)
		l.leader()
	}
}

// fillUp writes until etcd takes nothing more.
func (l *lab) fillUp(admin *clientv3.Client) {
	l.Helper()
	value := string(bytes.Repeat([]byte("x"), 1<<17))
	nstest.Eventually(l, limit, "etcd is full", func() error {
		for {
			ctx, cancel := context.WithTimeout(l.Context(), 5*time.Second)
			_, err := admin.Put(ctx, "/filler", value)
			cancel()
			if errors.Is(err, rpctypes.ErrNoSpace) {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

// makeRoom has etcd take writes again, by what docs/cluster.md says.
func (l *lab) makeRoom(admin *clientv3.Client) {
	l.Helper()
	nstest.Eventually(l, limit, "etcd has room", func() error {
		ctx, cancel := context.WithTimeout(l.Context(), 20*time.Second)
		defer cancel()
		r, err := admin.Get(ctx, "/filler")
		if err != nil {
			return err
		}
		if _, err := admin.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
		for _, e := range endpoints() {
			if _, err := admin.Defragment(ctx, e); err != nil {
				return err
			}
		}
		if _, err = admin.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
			return err
		}
		left, err := admin.AlarmList(ctx)
		if err == nil && len(left.Alarms) > 0 {
			err = fmt.Errorf("alarms: %v", (*pb.AlarmResponse)(left))
		}
		return err
	})
}

// isFull waits until a host says that etcd is full, and what helps.
func (l *lab) isFull(i int) {
	l.Helper()
	nstest.Eventually(l, limit, l.hosts[i].Name+" says that etcd is full", func() error {
		out := l.hosts[i].Vnetctl(l.Context(), "", "doctor").Stdout
		for _, want := range []string{`cluster "lab" is away`, "the store is full", "etcdctl compact", "etcdctl defrag", "etcdctl alarm disarm"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("it does not say %q:\n%s", want, out)
			}
		}
		return nil
	})
}
