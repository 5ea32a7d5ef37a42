package network_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestForwardsOfEndedPort adds forwards to a port that has ended meanwhile, as one does whose
// holder leaves, and finds none that stays.
func TestForwardsOfEndedPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "198.51.100"))
		p, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{})
		must(t, err)
		must(t, h.Ports().Release(t.Context(), p.UUID))
		for _, f := range files {
			must(t, f.Close())
		}
		err = h.Forwards().AddToPort(t.Context(), p, []api.ForwardOptions{{Ports: "2222", ToPort: 22}})
		if err == nil || network.KindOf(err) != api.NotFound {
			t.Errorf("a forward of a port that has ended: %v, want that it is not there", err)
		}
		nstest.Eventually(t, wait, "no forward is left", func() error {
			if all := h.Forwards().On(n); len(all) > 0 {
				return api.Errorf(api.Exists, "there is %+v", all)
			}
			return nil
		})
	})
}

// TestCleanupOfForwards has the networks of a vnetd that was killed be cleaned up, and finds
// no rule of their forwards.
func TestCleanupOfForwards(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		former := newHub(t, root, hubOptions{})
		n := former.started(natXML("one", "198.51.100"))
		_, err := former.Forwards().Add(t.Context(), n, api.ForwardOptions{Ports: "2222", To: "198.51.100.9", ToPort: 22}, "")
		must(t, err)
		if rules := nstest.Exec(t, "iptables-save"); !strings.Contains(rules, "--dport 2222 -j DNAT") {
			t.Fatalf("no rule leads to the guest:\n%s", rules)
		}
		former.end()
		h := newHub(t, root, hubOptions{bare: true})
		must(t, h.Cleanup(t.Context()))
		if rules := nstest.Exec(t, "iptables-save"); strings.Contains(rules, "DNAT") {
			t.Errorf("rules of forwards are left:\n%s", rules)
		}
	})
}

// TestForwardsOfPortsOverAStop stops and starts a network in all ways that there are, and finds the
// forward of a port that stays, as long as there is nothing in its way and the port is there.
func TestForwardsOfPortsOverAStop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root, xml := t.TempDir(), natXML("one", "198.51.100")
		h := newHub(t, root, hubOptions{})
		n := h.started(xml)
		p, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{Lifetime: api.LifetimePersistent})
		must(t, err)
		for _, f := range files {
			must(t, f.Close())
		}
		held := api.ForwardOptions{Ports: "2222", ToPort: 22}
		must(t, h.Forwards().AddToPort(t.Context(), p, []api.ForwardOptions{held, {Ports: "2223", ToPort: 23}}))
		has := func(when string, want ...string) {
			t.Helper()
			var got []string
			for _, f := range h.Forwards().On(n) {
				got = append(got, f.Ports)
				if f.Port != p.UUID {
					t.Errorf("%s: %+v is not the port's", when, f)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: forwards of %v, want %v", when, got, want)
			}
		}
		must(t, n.Stop(t.Context()))
		has("while it is stopped")
		must(t, n.Start(t.Context()))
		has("started again", "2222", "2223")

		must(t, n.Stop(t.Context()))
		n, err = h.Rename(t.Context(), n, "two")
		must(t, err)
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err = h.ByName("two")
		must(t, err)
		must(t, n.Start(t.Context()))
		has("started by the next vnetd, under another name", "2222", "2223")

		other := strings.NewReplacer("<name>one", "<uuid>"+n.Info().UUID+"</uuid><name>two", "bridge name='one'", "bridge name='br2'").Replace(xml)
		_, err = h.DefineWith(t.Context(), []byte(other), api.DefineOptions{Apply: api.ApplyAll})
		must(t, err)
		has("restarted on bridge "+n.Info().Bridge, "2222", "2223")
		if n.Info().Bridge != "br2" {
			t.Error("it was not restarted")
		}

		must(t, n.Stop(t.Context()))
		program, err := net.Listen("tcp", "127.0.0.1:2222")
		must(t, err)
		must(t, n.Start(t.Context()))
		has("where a program has a port by now", "2223")
		must(t, program.Close())

		must(t, n.Stop(t.Context()))
		must(t, h.Ports().Release(t.Context(), p.UUID))
		must(t, n.Start(t.Context()))
		has("without its port")
	})
}

// meanwhile calls do as rules are set.
type meanwhile struct {
	realRules
	do func()
}

func (m *meanwhile) Set(ctx context.Context, n firewall.Network) error {
	m.do()
	return m.realRules.Set(ctx, n)
}

// TestForwardOfPortEndsDuringStart ends a port while its network starts, and finds no forward of it.
func TestForwardOfPortEndsDuringStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		during := &meanwhile{do: func() {}}
		h := newHub(t, t.TempDir(), hubOptions{rules: func(r network.Rules) network.Rules {
			during.realRules = r
			return during
		}})
		n := h.started(natXML("one", "198.51.100"))
		p, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{Lifetime: api.LifetimePersistent})
		must(t, err)
		for _, f := range files {
			must(t, f.Close())
		}
		must(t, h.Forwards().AddToPort(t.Context(), p, []api.ForwardOptions{{Ports: "2222", ToPort: 22}}))
		must(t, n.Stop(t.Context()))
		during.do = sync.OnceFunc(func() { must(t, h.Ports().Release(t.Context(), p.UUID)) })
		must(t, n.Start(t.Context()))
		until(t, "no forward is left", func() bool { return len(h.Forwards().On(n)) == 0 })
	})
}
