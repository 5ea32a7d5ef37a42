package e2e

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/test/story"
)

// TestNetworksWithoutXML makes networks in words: each has a subnet of its own, guests get
// leases of it, and a network keeps what it is under another name.
func TestNetworksWithoutXML(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		nstest.IP(t, "link add taken type bridge")
		nstest.IP(t, "address add 192.168.100.1/24 dev taken")

		vnetctl(t, l, "new", "web", "--ipv6", "auto", "--domain", "web.example", "--start", "--enable")
		web := networks(t)["web"]
		if !web.Active || web.State != "active" || !web.Autostart {
			t.Errorf("web after new --start --enable: %+v", web)
		}
		if got := leaseOf(t, nstest.Guest(t, web.Bridge, "g-web", ""), "one"); !strings.HasPrefix(got, "192.168.101.") {
			t.Errorf("a guest of web has the address %q, want one of 192.168.101.0/24", got)
		}
		if err := story.Contains("cat web", vnetctl(t, l, "cat", "web"), "<nat ipv6='yes'", "address='fd", "<domain name='web.example'/>"); err != nil {
			t.Error(err)
		}

		newRefused(t, l)
		copied(t, l)
		renamed(t, l, v, web)
	})
}

// newRefused has new refuse subnets that the network web and the host have.
func newRefused(t *testing.T, l *nstest.Lab) {
	t.Helper()
	refused := l.Vnetctl(t.Context(), "new", "clash", "--subnet", "192.168.101.0/24")
	if err := story.Contains("a subnet of another", refused.Stderr, "192.168.101.0/24", "web"); err != nil || refused.Code != 5 {
		t.Errorf("exit code %d, want 5; %v", refused.Code, err)
	}
	refused = l.Vnetctl(t.Context(), "new", "clash", "--subnet", "192.168.100.0/24")
	if err := story.Contains("a subnet of the host", refused.Stderr, "192.168.100.0/24", "taken"); err != nil || refused.Code != 5 {
		t.Errorf("exit code %d, want 5; %v", refused.Code, err)
	}
	if _, there := networks(t)["clash"]; there {
		t.Error("a network that was refused is defined")
	}
}

// copied has web copied, and the copy changed.
func copied(t *testing.T, l *nstest.Lab) {
	t.Helper()
	vnetctl(t, l, "copy", "web", "other")
	vnetctl(t, l, "start", "other")
	if got := leaseOf(t, nstest.Guest(t, networks(t)["other"].Bridge, "g-other", ""), "two"); !strings.HasPrefix(got, "192.168.102.") {
		t.Errorf("a guest of the copy has the address %q, want one of 192.168.102.0/24", got)
	}
	vnetctl(t, l, "set", "other", "domain=other.example", "dhcp=192.168.102.50-192.168.102.59")
	if err := story.Contains("cat other", vnetctl(t, l, "cat", "other"), "other.example", "192.168.102.59"); err != nil {
		t.Error(err)
	}
}

// renamed gives web another name, with all that it is, and has vnetd crash right after.
func renamed(t *testing.T, l *nstest.Lab, v *nstest.Vnetd, web api.Network) {
	t.Helper()
	if active := l.Vnetctl(t.Context(), "rename", "web", "www"); active.Code == 0 || !strings.Contains(active.Stderr, "stop it") {
		t.Errorf("rename of an active network: %+v, want a refusal that says what to do", active)
	}
	before := strings.Replace(vnetctl(t, l, "cat", "web", "--inactive"), "<name>web", "<name>www", 1)
	vnetctl(t, l, "port", "create", "web", "--lifetime", "persistent", "--ifname", "kept0", "--name", "keeper")
	vnetctl(t, l, "stop", "web", "--force")
	wrong := l.Vnetctl(t.Context(), "rename", "web", "w/w/w")
	if err := story.Contains("a name that is none", wrong.Stderr, "network/name", "w/w/w"); err != nil || !networks(t)["web"].Autostart {
		t.Errorf("after %+v the network is %+v, want it as it was; %v", wrong, networks(t)["web"], err)
	}
	vnetctl(t, l, "peer", "add", "other", "web", "tcp/80")
	if told := l.Vnetctl(t.Context(), "rename", "web", "www"); told.Code != 0 || !strings.Contains(told.Stderr, `peerings of "other" are with "web" still`) {
		t.Errorf("rename: %+v, want it done and told which peering it leaves behind", told)
	}
	same(t, "the renamed network", before, vnetctl(t, l, "cat", "www", "--inactive"))
	v.Kill()
	l.StartVnetd() // it starts www, which is marked for that, unless it was stopped
	vnetctl(t, l, "start", "www", "--if-needed")
	if kept := ports(t); len(kept) != 1 || kept[0].Network != "www" || kept[0].IfName != "kept0" {
		t.Errorf("ports after the rename: %+v, want kept0 on www", kept)
	}
	if www := networks(t)["www"]; !www.Active || !www.Autostart || www.Bridge != web.Bridge {
		t.Errorf("the renamed network: %+v, want it as web was: %+v", www, web)
	}
	if err := story.Contains("leases www", vnetctl(t, l, "leases", "www"), "192.168.101."); err != nil {
		t.Error(err)
	}
}

// TestRenameKilled has vnetd be killed while it renames a network, at some moment: the next one
// has the network whole, under one name or the other.
func TestRenameKilled(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		vnetctl(t, l, "new", "one", "--start", "--enable")
		vnetctl(t, l, "port", "create", "one", "--lifetime", "persistent", "--ifname", "kept0")
		vnetctl(t, l, "stop", "one", "--force")
		was := networks(t)["one"]
		from, to := "one", "two"
		for range 8 {
			var renaming sync.WaitGroup
			renaming.Go(func() { l.Vnetctl(t.Context(), "rename", from, to) })
			time.Sleep(rand.N(40 * time.Millisecond))
			v.Kill()
			renaming.Wait()
			v = l.StartVnetd()
			all, kept := networks(t), ports(t)
			is, renamed := all[to]
			if !renamed {
				is = all[from]
			}
			if len(all) != 1 || is.UUID != was.UUID || !is.Autostart || len(kept) != 1 || kept[0].Network != is.Name {
				t.Fatalf("after a crash there are the networks %+v with the ports %+v, want that of %+v", all, kept, was)
			}
			if renamed {
				from, to = to, from
			}
		}
	})
}
