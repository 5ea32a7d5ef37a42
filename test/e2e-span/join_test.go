package e2espan

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// own is the network of the tests as one of a host's own.
const own = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.4.255'/></dhcp></ip><vnetd:guard level='off'/></network>`

// owns has the first host have the network as its own, active.
func (l *lab) owns() {
	l.Helper()
	for _, args := range [][]string{{"define", "-"}, {"start", "apps"}, {"enable", "apps"}} {
		l.ctl(0, own, args...)
	}
}

// member is one of many guests, each on a port of its own.
type member struct {
	*crowd
	mac     net.HardwareAddr
	address netip.Addr
}

// TestSpanWithGuests has a network with a hundred guests become one of the cluster's, and be each
// host's own again: none loses its lease or its link, and no packet of those that send.
func TestSpanWithGuests(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.owns()
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(0, "b", client.PortOptions{Name: "b"})
		a.lease()
		b4 := b.lease()
		members := make([]member, 98)
		for i := range members {
			m := member{crowd: l.crowd(0), mac: card(0, i)}
			var err error
			if m.address, err = m.lease(m.mac); err != nil {
				t.Fatal(err)
			}
			members[i] = m
		}
		links := func() string {
			return l.hosts[0].Exec("sh", "-c", "ip -o link show type tun; ip -o link show type bridge")
		}
		was := links()
		keeps := func(when string) {
			t.Helper()
			for _, m := range members {
				if err := m.renew(m.mac, m.address); err != nil {
					t.Errorf("%s: %v: %v", when, m.mac, err)
				}
			}
			if is := links(); is != was {
				t.Errorf("%s links are\n%s\nwere\n%s", when, is, was)
			}
		}
		near, gateway := a.streams(b4), a.streams("10.50.0.1")
		begin := time.Now()
		l.ctl(0, "", "span", "apps", "--block", "16")
		t.Logf("100 guests are of the cluster after %v", time.Since(begin).Round(time.Millisecond))
		keeps("once it spans hosts")
		l.settled()
		c := l.guest(2, "c", client.PortOptions{Name: "c"})
		c4 := c.lease()
		l.come(l.crowd(1), 1, 0, 50)
		c.reaches(b4)
		a.reaches(c4)
		l.sound()
		begin = time.Now()
		l.ctl(2, "", "unspan", "apps")
		for i := range l.hosts {
			l.isApart(i)
		}
		t.Logf("each host has its own after %v", time.Since(begin).Round(time.Millisecond))
		keeps("once it is apart")
		near.lost()
		gateway.lost()
		if again := c.lease(); again != c4 {
			t.Errorf("the guest has %s, had %s", again, c4)
		}
		l.check()
	})
}

// isApart waits until a host has the network as its own, active.
func (l *lab) isApart(i int) {
	l.Helper()
	nstest.Eventually(l, limit, l.hosts[i].Name+" has the network as its own", func() error {
		out := l.ctl(i, "", "cat", "apps") + l.ctl(i, "", "cat", "apps", "--inactive") + l.hosts[i].Exec("ip", "-o", "link", "show", "type", "vxlan")
		if strings.Contains(out, "span") || strings.Contains(out, "vx") {
			return errors.New(out)
		}
		return nil
	})
}

// TestSpanKilled has vnetd be killed at any time while a network becomes one of the cluster's: it
// is that then, or the host's own with nothing left in etcd, and its guest keeps its address.
func TestSpanKilled(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.owns()
		g := l.guest(0, "g", client.PortOptions{Name: "g"})
		had := g.lease()
		for n := range 10 {
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				_ = l.hosts[0].Vnetctl(l.Context(), "", "span", "apps")
			}()
			time.Sleep(rand.N(120 * time.Millisecond))
			l.hosts[0].KillVnetd()
			<-asked
			l.hosts[0].StartVnetd()
			spans := false
			nstest.Eventually(t, limit, fmt.Sprintf("the network is whole after kill %d", n+1), func() (err error) {
				spans, err = l.stands()
				return err
			})
			t.Logf("kill %d: the network spans hosts: %t", n+1, spans)
			if again := g.lease(); again != had {
				t.Errorf("the guest has %s, had %s", again, had)
			}
			if spans {
				l.ctl(0, "", "unspan", "apps")
				for i := range l.hosts {
					l.isApart(i)
				}
				for _, i := range []int{1, 2} {
					l.ctl(i, "", "stop", "apps")
					l.ctl(i, "", "undefine", "apps")
				}
			}
		}
	})
}

// stands reports whether the network is the cluster's, on all hosts, or else holds that it is the first
// host's own and that etcd has nothing of it.
func (l *lab) stands() (spans bool, err error) {
	is, will := l.hosts[0].Vnetctl(l.Context(), "", "cat", "apps"), l.hosts[0].Vnetctl(l.Context(), "", "cat", "apps", "--inactive")
	if err := errors.Join(is.Err(), will.Err()); err != nil {
		return false, err
	}
	spans = strings.Contains(is.Stdout, "vnetd:span")
	if spans != strings.Contains(will.Stdout, "vnetd:span") {
		return false, errors.New(is.Stdout + will.Stdout)
	}
	if out := l.hosts[0].Vnetctl(l.Context(), "", "cluster", "status").Stdout; !strings.Contains(out, "reached") {
		return false, errors.New(out)
	}
	_, list, err := l.snapshot()
	if err != nil {
		return false, err
	}
	has := false
	for _, kv := range list.KVs {
		switch {
		case strings.HasSuffix(kv.Key, "/n/apps"):
			has = strings.Contains(string(kv.Value), "vnetd:span")
		case !spans && strings.Contains(kv.Key, "/apps/"):
			return false, fmt.Errorf("etcd has %s", kv.Key)
		}
	}
	if has != spans {
		return false, fmt.Errorf("the network spans hosts: here %t, in etcd %t", spans, has)
	}
	for i := range l.hosts {
		if out := l.hosts[i].Vnetctl(l.Context(), "", "list", "--active", "--names").Stdout; spans && out != "apps\n" {
			return false, fmt.Errorf("%s has %q", l.hosts[i].Name, out)
		}
	}
	return spans, nil
}
