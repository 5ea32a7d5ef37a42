package e2e

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// stop ends vnetd as a service manager does.
func stop(t *testing.T, v *nstest.Vnetd) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := v.Stop(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestStopKeepsNetworks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		vnetctl(t, l, "create", testdata(t, "isolated-network.xml"))
		before := state(t)
		stop(t, v)
		same(t, "links and rules after SIGTERM", before, state(t))
		l.StartVnetd()
		same(t, "links and rules after the next start", before, state(t))
		for _, name := range []string{story.Network, "isolated-network"} {
			if n := networks(t)[name]; !n.Active || n.State != "active" {
				t.Errorf("after the next start %s is %+v", name, n)
			}
		}
		if n := networks(t)["isolated-network"]; n.Persistent {
			t.Error("the transient network became persistent")
		}
		guest := nstest.Guest(t, story.Bridge, "g1", "")
		if got := leaseOf(t, guest, story.Host); got != story.Address {
			t.Errorf("the address of a guest of the adopted network is %q, want %s", got, story.Address)
		}
	})
}

func TestStartedNetworksStop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		vnetctl(t, l, "define", testdata(t, story.Network+".xml"))
		vnetctl(t, l, "start", story.Network)
		started := state(t)
		vnetctl(t, l, "stop", story.Network)
		stopped := state(t)
		if strings.Contains(stopped, story.Bridge) {
			t.Errorf("after the stop something is left of %s:\n%s", story.Bridge, stopped)
		}
		vnetctl(t, l, "start", story.Network)
		same(t, "a second start", started, state(t))
		vnetctl(t, l, "stop", story.Network)
		same(t, "a second stop", stopped, state(t))
		vnetctl(t, l, "undefine", story.Network)
		if files := defined(t); len(files) > 1 {
			t.Errorf("after undefine /etc/vnetd/networks holds %q", files)
		}
		if r := l.Vnetctl(t.Context(), "start", story.Network); r.Code != 3 {
			t.Errorf("starting a network that is not there ended with %+v, want code 3", r)
		}
	})
}

// A transient network is gone with its stop, and so is one that was undefined
// while it ran.
func TestTransientNetworks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		vnetctl(t, l, "create", testdata(t, story.Network+".xml"))
		startNetwork(t, l, "isolated-network")
		vnetctl(t, l, "undefine", "isolated-network")
		for _, name := range []string{story.Network, "isolated-network"} {
			if n := networks(t)[name]; !n.Active || n.Persistent {
				t.Errorf("the transient network %s is %+v", name, n)
			}
			vnetctl(t, l, "stop", name)
		}
		if left := networks(t); len(left) > 0 {
			t.Errorf("after the stop there still are %+v", left)
		}
	})
}

// What others do to the rules is put right by a reload.
func TestRulesAreRepaired(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		want := listed(t)
		for _, damage := range []string{"-t nat -F", "-F", "-D FORWARD -j LIBVIRT_FWX", "-t mangle -F LIBVIRT_PRT"} {
			nstest.Exec(t, "iptables", strings.Fields(damage)...)
			if err := v.Reload(); err != nil {
				t.Fatal(err)
			}
			nstest.Eventually(t, limit, "repair after iptables "+damage, func() error {
				if diff := cmp.Diff(want, rules(t, "iptables-save")); diff != "" {
					return errors.New(diff)
				}
				return nil
			})
		}
	})
}

func TestOneVnetdAtATime(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		for _, args := range [][]string{nil, {"--cleanup"}} {
			out, err := exec.CommandContext(t.Context(), filepath.Join(l.Bin, "vnetd"), args...).CombinedOutput()
			if err == nil {
				t.Errorf("a second vnetd %q ended with 0", args)
			}
			if err := story.Contains("the second vnetd", string(out), "another vnetd is running"); err != nil {
				t.Error(err)
			}
		}
		same(t, "links and rules after a second vnetd", before, state(t))
	})
}

func TestCleanupRemovesEverything(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		before := state(t)
		v := l.StartVnetd()
		for _, name := range []string{story.Network, "default", "isolated-network", "routed-network"} {
			startNetwork(t, l, name)
		}
		holdPort(t, story.Network)
		for _, end := range []func(){func() { stop(t, v) }, func() { v.Kill() }} {
			end()
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if err := l.Cleanup(ctx); err != nil {
				t.Error(err)
			}
			cancel()
			same(t, "links and rules after vnetd --cleanup", before, state(t))
			v = l.StartVnetd()
			if n := networks(t)[story.Network]; n.Active {
				t.Errorf("after vnetd --cleanup %s is %+v", story.Network, n)
			}
			vnetctl(t, l, "start", story.Network)
		}
	})
}

// holdPort asks for a port and keeps its file open, as a guest does. It returns
// the name of the TAP device.
func holdPort(t *testing.T, network string) string {
	t.Helper()
	port, err := dial(t).RequestPort(t.Context(), network, client.PortOptions{Name: "held"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	return port.Info.IfName
}

func TestAutostart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		vnetctl(t, l, "enable", story.Network)
		vnetctl(t, l, "define", testdata(t, "routed-network.xml"))
		want := state(t)
		// As after a reboot: nothing of the kernel's state and of /run is left.
		stop(t, v)
		if err := l.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		v = l.StartVnetd()
		same(t, "links and rules of an autostarted network", want, state(t))
		if n := networks(t); !n[story.Network].Active || !n[story.Network].Autostart || n["routed-network"].Active {
			t.Errorf("after a reboot the networks are %+v", n)
		}
		vnetctl(t, l, "disable", story.Network)
		stop(t, v)
		if err := l.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.StartVnetd()
		if n := networks(t)[story.Network]; n.Active || n.Autostart {
			t.Errorf("a network that is not to start with the host is %+v", n)
		}
	})
}

// An entry that is added to a running network counts for the next guest, and
// nothing of the network is made anew.
func TestUpdateWhileActive(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		before := state(t)
		vnetctl(t, l, "update", story.Network, "add", "ip-dhcp-host", "<host name='other' ip='192.168.10.20'/>", "--live", "--config")
		same(t, "links and rules after vnetctl update", before, state(t))
		if got := leaseOf(t, nstest.Guest(t, story.Bridge, "g1", ""), "other"); got != "192.168.10.20" {
			t.Errorf("the address of the guest that was added is %q", got)
		}
		stop(t, v)
		l.StartVnetd()
		for _, args := range [][]string{{"cat", story.Network}, {"cat", story.Network, "--inactive"}} {
			if err := story.Contains("vnetctl "+args[0], vnetctl(t, l, args...), "192.168.10.20"); err != nil {
				t.Error(err)
			}
		}
	})
}
