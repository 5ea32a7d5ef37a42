package e2e

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// TestGuestsOwnMAC has QEMU ask for ports as it asks its own bridge helper, which
// hears of no MAC address: the port follows its guest, also over a restart, and no
// other guest that forges the address, whose guard stops that.
func TestGuestsOwnMAC(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		define(t, l, "")
		vnetctl(t, l, "start", "lab")
		helper := "tap,id=n0,br=lab,helper=" + l.Helper() + " --name="
		_, address := leased(t, nstest.GuestConfig{Name: "first", Netdev: helper + "web", MAC: cardMAC})
		want := fmt.Sprintf("web: %s [%s] %s", cardMAC, address, address)
		if got := follows(t, "web"); got != want {
			t.Errorf("the port is %q, want %q", got, want)
		}

		forger, other := leased(t, nstest.GuestConfig{Name: "second", Netdev: helper + "evil", MAC: "52:54:00:00:53:02"})
		ctx, cancel := context.WithTimeout(t.Context(), 2*limit)
		defer cancel()
		forge := "killall udhcpc; ip link set eth0 down; ip link set eth0 address " + cardMAC +
			"; ip link set eth0 up; udhcpc -i eth0 -n -q -t 5 -T 1 -x hostname:web -s /udhcpc.sh"
		if out, code, err := forger.Run(ctx, forge); err != nil || code == 0 {
			t.Fatalf("the other guest got a lease by a forged address (%v, exit code %d):\n%s", err, code, out)
		}
		forged := fmt.Sprintf("evil: 52:54:00:00:53:02 [%s] %s", other, other)
		check := func(when string) {
			t.Helper()
			if got := follows(t, "web"); got != want {
				t.Errorf("%s the port is %q, want %q", when, got, want)
			}
			if got := follows(t, "evil"); got != forged {
				t.Errorf("%s the forger's port is %q, want %q", when, got, forged)
			}
		}
		check("after another guest claimed its address")
		v.Kill()
		l.StartVnetd()
		check("after a restart")

		forger.Kill()
		nstest.Eventually(t, limit, "the forger's port going", func() error {
			if got := follows(t, "evil"); got != "" {
				return fmt.Errorf("it is %q", got)
			}
			return nil
		})
		if got := follows(t, "web"); got != want {
			t.Errorf("after the forger's end the port is %q, want %q", got, want)
		}
	})
}

// follows is what is known of the guest on the port of that name: address of the
// card, addresses leased, addresses of the name; empty where nothing is.
func follows(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("dig", "+short", "+tries=3", "@192.0.2.1", name+".lab.example").Output()
	if err != nil {
		t.Fatalf("asking for %s: %v", name, err)
	}
	var found api.Port
	for _, p := range ports(t) {
		if p.Name == name {
			found = p
		}
	}
	if found.UUID == "" {
		return strings.TrimSpace(string(out))
	}
	return fmt.Sprintf("%s: %v %v %s", name, found.MAC, found.Addresses, strings.Join(strings.Fields(string(out)), " "))
}
