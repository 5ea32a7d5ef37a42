package e2espan

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

// storeOf is a store as a host has it.
func (l *lab) storeOf(host string) *etcd.Store {
	l.Helper()
	dir := l.dir + "/hosts/" + host
	cfg, _, err := etcd.Files{CA: dir + "/ca.crt", Cert: dir + "/host.crt", Key: dir + "/host.key"}.Load()
	var s *etcd.Store
	if err == nil {
		s, err = etcd.Open(etcd.Config{Endpoints: endpoints(), TLS: cfg})
	}
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = s.Close() })
	return s
}

// put puts a key that is no good.
func put(l *lab, s *etcd.Store, key string) error {
	ctx, cancel := context.WithTimeout(l.Context(), 5*time.Second)
	defer cancel()
	_, err := s.Txn(ctx, cluster.Txn{Then: []cluster.Op{{Key: key, Value: []byte("{}")}}})
	return err
}

// admin is a client of etcd that may do everything.
func (l *lab) admin() *clientv3.Client {
	l.Helper()
	cfg, _, err := etcd.Files{CA: l.dir + "/ca.crt", Cert: l.dir + "/admin.crt", Key: l.dir + "/admin.key"}.Load()
	var c *clientv3.Client
	if err == nil {
		c, err = clientv3.New(clientv3.Config{Endpoints: endpoints(), TLS: cfg})
	}
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = c.Close() })
	return c
}

// TestOutOfStep has a host miss what etcd forgets, lose its session, and all of etcd be slow:
// it is in step again each time, and forgets the place of no guest in between.
func TestOutOfStep(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, c := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(2, "c", client.PortOptions{Name: "c"})
		a4, c4 := a.lease(), c.lease()
		a.finds("c", c4)
		c.finds("a", a4)
		c.reaches(a4)
		admin := l.admin()
		var watches []*removals
		for i := range l.hosts {
			watches = append(watches, l.watchRemovals(i))
		}
		s := c.streams(a4)
		l.compacted(admin, c)
		l.withoutSession(admin)
		l.slow(admin, c)
		s.lost()
		for i, w := range watches {
			removed := w.end()
			if t.Logf("h%d removed %d entries", i+1, len(removed)); len(removed) > 0 {
				t.Errorf("h%d removed entries: %v", i+1, removed)
			}
		}
		l.sound()
		l.check()
	})
}

// compacted has the third host's vnetd stand still while all servers of etcd are started again,
// one by one, so that it has to ask anew for what it missed; guests come, and etcd forgets how.
func (l *lab) compacted(admin *clientv3.Client, c *guest) {
	l.Helper()
	l.sendSignal(2, syscall.SIGSTOP)
	for i := range l.etcd {
		l.killEtcd(i)
		l.startEtcd(i)
		l.leader()
	}
	b := l.guest(1, "b", client.PortOptions{Name: "b"})
	b4 := b.lease()
	l.come(l.crowd(1), 1, 0, 10)
	nstest.Eventually(l, limit, "etcd forgets", func() error {
		ctx, cancel := context.WithTimeout(l.Context(), 5*time.Second)
		defer cancel()
		r, err := admin.Get(ctx, "/vnetd/1/lab/meta")
		if err == nil {
			_, err = admin.Compact(ctx, r.Header.Revision, clientv3.WithCompactPhysical())
		}
		return err
	})
	begin := time.Now()
	l.sendSignal(2, syscall.SIGCONT)
	c.finds("b", b4)
	l.Logf("in step %v after what it missed was forgotten", time.Since(begin).Round(time.Millisecond))
	l.settled()
}

// withoutSession ends the sessions of all hosts.
func (l *lab) withoutSession(admin *clientv3.Client) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), limit)
	defer cancel()
	all, err := admin.Leases(ctx)
	if err != nil {
		l.Fatal(err)
	}
	begin := time.Now()
	for _, lease := range all.Leases {
		if _, err := admin.Revoke(ctx, lease.ID); err != nil {
			l.Error(err)
		}
	}
	l.settled()
	l.Logf("%d sessions ended: all hosts are alive again after %v", len(all.Leases), time.Since(begin))
}

// slow has the disks of all servers of etcd take 0.7 s for each write that is waited for, of which
// a transaction has two or three, while guests renew and come.
func (l *lab) slow(admin *clientv3.Client, c *guest) {
	l.Helper()
	var slowed []*exec.Cmd
	for i := range l.etcd {
		cmd := exec.CommandContext(l.Context(), "strace", "-f", "-q", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:delay_exit=700ms", "-p", strconv.Itoa(l.etcd[i].Process.Pid))
		if err := cmd.Start(); err != nil {
			l.Fatal(err)
		}
		slowed = append(slowed, cmd)
	}
	var took []time.Duration
	crowd := l.crowd(1)
	for n := range 15 {
		begin := time.Now()
		nstest.Eventually(l, limit, "an answer of etcd", func() error { // a server may lose its lead
			ctx, cancel := context.WithTimeout(l.Context(), 10*time.Second)
			defer cancel()
			_, err := admin.Put(ctx, "/slow", strconv.Itoa(n))
			return err
		})
		took = append(took, time.Since(begin))
		c.lease()
		l.come(crowd, 1, 100+5*n, 105+5*n)
		l.guest(n%3, fmt.Sprintf("g%d", n), client.PortOptions{}).lease()
	}
	slices.Sort(took)
	l.Logf("a transaction of etcd took %v to %v, half more than %v", took[0].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), took[len(took)/2].Round(time.Millisecond))
	if took[len(took)/2] < 700*time.Millisecond {
		l.Error("etcd was not slow")
	}
	for _, cmd := range slowed {
		_ = cmd.Process.Signal(os.Interrupt) // it lets go of etcd
		_ = cmd.Wait()
	}
	begin := time.Now()
	l.settled()
	l.Logf("in step %v after etcd was slow", time.Since(begin).Round(time.Millisecond))
}
