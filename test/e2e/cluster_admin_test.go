package e2e

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// hosts waits until the store has these hosts, one a line, as asked on the first host.
func (l *clusterLab) hostsAre(want ...string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("the cluster has %v", want), func() error {
		r := l.spanLab.hosts[0].Vnetctl(l.Context(), "", "cluster", "hosts", "--format", "{{.waiting|len}}{{range .hosts}} {{.name}}={{.state}},{{.leases}}{{end}}")
		if got := strings.Fields(r.Stdout); r.Err() != nil || len(got) == 0 || got[0] != "0" || !slices.Equal(got[1:], want) {
			return errors.Join(errors.New(r.Stdout), r.Err())
		}
		return nil
	})
}

// isLost waits until a host says what the store lost.
func (l *clusterLab) isLost(i int, what string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d says that the store was %s", i+1, what), func() error {
		if out := l.ctl(i, "", "cluster", "status"); !strings.Contains(out, "the store was "+what) {
			return errors.New(out)
		}
		return nil
	})
}

// later defines a network that no export has.
func (l *clusterLab) later() {
	l.Helper()
	l.ctl(0, "<network xmlns:vnetd='urn:vnetd:network:1'><name>late</name><ip address='10.60.0.1' prefix='24'/><vnetd:span cluster='lab' vni='8'/></network>", "define", "-")
	nstest.Eventually(l, spanLimit, "the other host has the network", func() error {
		if out := l.ctl(1, "", "list", "--names"); !strings.Contains(out, "late") {
			return errors.New(out)
		}
		return nil
	})
}

// has holds which networks a host has, once what the store has is told.
func (l *clusterLab) has(i int, networks string) {
	l.Helper()
	if out := strings.Join(strings.Fields(l.ctl(i, "", "list", "--names")), " "); out != networks {
		l.Errorf("h%d has networks %s, want %s", i+1, out, networks)
	}
}

// TestClusterAdmin does what an administrator does with a cluster whose store loses all, and
// of which a host ends: guests keep their addresses and reach each other all the time.
func TestClusterAdmin(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(clusterDocument)
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		l.hostsAre("h1=alive,1", "h2=alive,1")
		for what, host := range map[string]string{"a": "h1", a4: "h1", "b": "h2", b4: "h2", strings.TrimSpace(b.Exec("cat", "/sys/class/net/eth0/address")): "h2"} {
			if out := l.ctl(0, "", "where", what, "--format", "{{.host}} {{.network}}"); strings.TrimSpace(out) != host+" apps" {
				t.Errorf("where %s: %q, want %s", what, out, host)
			}
		}
		l.ctl(0, "", "cluster", "export", "/run/export.json")
		l.later()
		l.etcd.Wipe()
		l.etcd.Start()
		l.isLost(0, "emptied")
		l.isLost(1, "emptied")
		l.ctl(0, "", "cluster", "restore", "/run/export.json", "--yes")
		l.ctl(0, "", "cluster", "restore")
		l.ctl(1, "", "cluster", "restore")
		l.hostsAre("h1=alive,1", "h2=alive,1")
		l.has(1, "apps late")
		l.has(0, "apps late")
		l.pings(a, b4)
		l.differ(l.lease(a), l.lease(b), l.lease(l.guest(0, "c", client.PortOptions{Name: "c"})))
		l.forgets(b, b4)
	})
}

// forgets has the second host end, be forgotten, and come back.
func (l *clusterLab) forgets(b *nstest.NS, b4 string) {
	l.Helper()
	if r := l.spanLab.hosts[0].Vnetctl(l.Context(), "", "cluster", "forget", "h2", "--yes"); r.Code != 1 || !strings.Contains(r.Stderr, "is alive") {
		l.Errorf("forget of a host that is alive: %v", r)
	}
	l.spanLab.hosts[1].KillVnetd()
	l.hostsAre("h1=alive,2", "h2=silent,1")
	l.ctl(0, "", "cluster", "forget", "h2", "--yes")
	l.hostsAre("h1=alive,2")
	l.spanLab.hosts[1].StartVnetd()
	l.isLost(1, "forgotten")
	l.ctl(1, "", "cluster", "restore")
	l.hostsAre("h1=alive,2", "h2=alive,1")
	if again := l.lease(b); again == "" {
		l.Errorf("the guest has no address, had %s", b4)
	}
}
