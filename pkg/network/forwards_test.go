package network_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
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
