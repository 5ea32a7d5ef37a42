package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// dial connects to the running vnetd.
func dial(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// networks are those that vnetd knows, by name.
func networks(t *testing.T) map[string]api.Network {
	t.Helper()
	c := dial(t)
	defer c.Close()
	list, err := c.Networks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]api.Network)
	for _, n := range list {
		byName[n.Name] = n
	}
	return byName
}

// ports are those that vnetd knows.
func ports(t *testing.T) []api.Port {
	t.Helper()
	c := dial(t)
	defer c.Close()
	list, err := c.Ports(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A port that QEMU asked for lives as long as QEMU, however it ends.
func TestQEMUKilled(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		s := &story.Story{Lab: l}
		q := nstest.BootGuest(t, nstest.GuestConfig{Name: story.Host, Netdev: s.Netdev(story.Network)})
		if _, err := q.LinkUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := ports(t); len(got) != 1 || got[0].Network != story.Network || got[0].Bridge != story.Bridge {
			t.Fatalf("with one guest the ports are %+v", got)
		}
		if state(t) == before {
			t.Fatal("a guest runs and the links are as they were")
		}
		q.Kill()
		nstest.Eventually(t, limit, "the port going", func() error { return noPorts(t) })
		same(t, "links and rules after the guest is gone", before, state(t))
	})
}

// The port of a guest forwards when its request is answered, although the
// bridge speaks STP with a forward delay of 2 s.
func TestPortForwardsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		ifname := holdPort(t, story.Network)
		for file, want := range map[string]string{
			"/sys/class/net/" + ifname + "/brport/state":               "3", // BR_STATE_FORWARDING
			"/sys/class/net/" + story.Bridge + "/bridge/stp_state":     "1",
			"/sys/class/net/" + story.Bridge + "/bridge/forward_delay": "200", // in 1/100 s
		} {
			// At once: waiting would hide the wait.
			got, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(got)) != want {
				t.Errorf("%s is %q (%v), want %s", file, got, err, want)
			}
		}
	})
}

// leases are those of nat-network, one on a line.
func leases(t *testing.T) string {
	t.Helper()
	list, err := dial(t).Network(story.Network).Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, lease := range list {
		text, err := json.Marshal(lease)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s on %s\n", text, lease.Interface)
	}
	return b.String()
}

// noPorts is an error while there is a port.
func noPorts(t *testing.T) error {
	t.Helper()
	if left := ports(t); len(left) > 0 {
		return fmt.Errorf("there still is the port %s", left[0].IfName)
	}
	return nil
}

// The lease that a guest has is told the same way everywhere.
func TestLeaseIsTold(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		const mac = "00:00:5e:00:53:01"
		guest := nstest.Guest(t, story.Bridge, "g1", mac)
		if got := leaseOf(t, guest, story.Host); got != story.Address {
			t.Fatalf("the guest's address is %q, want %s", got, story.Address)
		}
		leases, err := dial(t).Network(story.Network).Leases(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		told := slices.IndexFunc(leases, func(l api.Lease) bool {
			return l.Address.String() == story.Address && l.Prefix == 24 && l.MAC == mac && l.Hostname == story.Host && l.Interface == story.Bridge && l.Expiry.After(time.Now())
		})
		if len(leases) != 1 || told != 0 {
			t.Errorf("the leases on the bus are %+v", leases)
		}
		if err := story.Contains("vnetctl leases", vnetctl(t, l, "leases"), mac, story.Address, story.Host); err != nil {
			t.Error(err)
		}
	})
}
