package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// owned is a port and the one it is there for.
type owned struct {
	name    string
	address netip.Addr
	ifname  string
	end     func() // of the owner
	stays   bool   // its owner lives on
}

// TestOwnersDieWithoutVnetd kills vnetd under 20 ports of all lifetimes, and half
// of their owners before it is back.
func TestOwnersDieWithoutVnetd(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		define(t, l, "")
		vnetctl(t, l, "start", "lab")
		before := strings.Count(nstest.Exec(t, "ip", "tuntap"), "\n")
		var all []owned
		for i := range 20 {
			lifetime := []api.Lifetime{api.LifetimeFD, api.LifetimeBus, api.LifetimePersistent}[i%3]
			all = append(all, own(t, i, lifetime))
		}
		if problem := differ(t, all, true); problem != nil {
			t.Fatalf("before the end of vnetd: %v", problem)
		}
		v.Kill()
		for _, o := range all {
			if !o.stays {
				o.end()
			}
		}
		l.StartVnetd()
		nstest.Eventually(t, limit, "exactly the right ports", func() error { return differ(t, all, false) })
		taps := strings.Count(nstest.Exec(t, "ip", "tuntap"), "\n") - before
		if want := len(slices.DeleteFunc(slices.Clone(all), func(o owned) bool { return !o.stays })); taps != want {
			t.Errorf("%d TAP devices of %d ports:\n%s", taps, want, nstest.Exec(t, "ip", "tuntap"))
		}
		c := dial(t)
		for _, o := range all {
			p, err := c.RequestPort(t.Context(), "lab", client.PortOptions{Addresses: []netip.Addr{o.address}})
			if o.stays != errors.Is(err, api.Conflict) || !o.stays && err != nil {
				t.Errorf("the address of %s, which stays: %v, for another port: %v", o.name, o.stays, err)
			}
			if err == nil {
				_ = p.Close()
			}
		}
	})
}

// own makes the ith port and its owner, one of two of whom will live.
func own(t *testing.T, i int, lifetime api.Lifetime) owned {
	t.Helper()
	c := dial(t)
	o := owned{name: fmt.Sprint("guest", i), address: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), stays: i%2 == 0}
	p, err := c.RequestPort(t.Context(), "lab", client.PortOptions{
		Name: o.name, Addresses: []netip.Addr{o.address}, Lifetime: lifetime, VnetHdr: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.ifname = p.Info.IfName
	switch lifetime {
	case api.LifetimeFD:
		o.end = holder(t, p)
	case api.LifetimeBus:
		o.end = func() { _ = c.Close() }
	default: // its device is the only one who could end it
		o.end = func() { nstest.IP(t, "link del "+o.ifname) }
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

// holder is a process that has the files of a port and does nothing with them.
// It is killed by what holder returns, or with the test.
func holder(t *testing.T, p *client.OpenPort) (kill func()) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.ExtraFiles = p.Files
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(kill)
	return kill
}

// differ tells in what the ports that vnetd lists, their devices and their names
// are not those of the owners that live, or of all.
func differ(t *testing.T, all []owned, everyone bool) error {
	t.Helper()
	var want, got []string
	for _, o := range all {
		if o.stays || everyone {
			want = append(want, fmt.Sprintf("%s has %s and is %v, %v on virbr7", o.name, o.ifname, o.address, o.address))
		}
	}
	for _, p := range ports(t) {
		// The bridge tells which devices it has.
		on := ""
		if _, err := net.InterfaceByName(p.IfName); err == nil {
			on = strings.TrimSpace(nstest.Exec(t, "sh", "-c", "basename $(readlink /sys/class/net/"+p.IfName+"/master)"))
		}
		got = append(got, fmt.Sprintf("%s has %s and is %s, %s on %s", p.Name, p.IfName, text(p.Reserved), resolve(t, p.Name), on))
	}
	for _, o := range all {
		if found := resolve(t, o.name); !o.stays && !everyone && found != "" {
			got = append(got, fmt.Sprintf("%s still is %s", o.name, found))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("-want +got:\n%s", diff)
	}
	return nil
}

// text is addresses with commas between.
func text(addrs []netip.Addr) string {
	var all []string
	for _, a := range addrs {
		all = append(all, a.String())
	}
	return strings.Join(all, ",")
}

// resolve asks the network lab for the address of a guest; empty for none.
func resolve(t *testing.T, name string) string {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "192.0.2.1:53")
	}}
	addrs, _ := r.LookupNetIP(t.Context(), "ip4", name+".lab.example.")
	return text(addrs)
}
