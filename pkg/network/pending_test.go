package network_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestNameIsNoLicence gives documents that are not the network's own.
func TestNameIsNoLicence(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		inactive, active := h.define(natXML("inactive", "198.51.100")), h.started(natXML("active", "192.0.2"))
		h.define(natXML("other", "203.0.113"))
		const stranger = "00000000-0000-4000-8000-000000000009"
		strict, fresh := api.DefineOptions{Strict: true}, api.DefineOptions{New: true}
		for _, n := range []*network.Network{inactive, active} {
			name, own := n.Info().Name, string(n.XML(true))
			before := string(n.XML(false)) + own + kernel(t)
			without := natXML(name, "203.0.113")
			another := strings.Replace(without, "</name>", "</name><uuid>"+stranger+"</uuid>", 1)
			exists := "network '" + name + "' already exists with uuid " + n.Info().UUID
			for what, tt := range map[string]struct {
				xml  string
				opts api.DefineOptions
				says string
			}{
				"no UUID, strict":         {without, strict, exists},
				"another UUID":            {another, api.DefineOptions{}, exists},
				"another UUID, strict":    {another, strict, exists},
				"its UUID, other's name":  {strings.Replace(own, "<name>"+name, "<name>other", 1), strict, "network 'other' already exists with uuid"},
				"its UUID, a new name":    {strings.Replace(own, "<name>"+name, "<name>renamed", 1), strict, "network '" + name + "' is already defined with uuid " + n.Info().UUID},
				"no UUID, a new network":  {without, fresh, exists},
				"its UUID, a new network": {own, fresh, exists},
			} {
				_, err := h.DefineWith(t.Context(), []byte(tt.xml), tt.opts)
				if network.KindOf(err) != api.Exists || err == nil || !strings.Contains(err.Error(), tt.says) {
					t.Errorf("%s, %s: %v, want Exists: %s", name, what, err, tt.says)
				}
			}
			if _, err := h.Create(t.Context(), []byte(without)); network.KindOf(err) != api.Exists {
				t.Errorf("%s: create without a UUID: %v, want Exists", name, err)
			}
			if diff := cmp.Diff(before, string(n.XML(false))+string(n.XML(true))+kernel(t)); diff != "" {
				t.Errorf("%s: what was refused changed (-before +after):\n%s", name, diff)
			}
			edited := strings.Replace(own, "<forward", "<title>edited</title><forward", 1)
			if d := h.defineWith(edited, strict); d.Action != api.ActionChanged || !strings.Contains(string(n.XML(true)), "edited") {
				t.Errorf("%s: with its UUID it is %s:\n%s", name, d.Action, n.XML(true))
			}
			if d := h.defineWith(edited, strict); d.Action != api.ActionUnchanged || len(d.Changes) > 0 {
				t.Errorf("%s: the same again: %s, %q", name, d.Action, d.Changes)
			}
		}
	})
}

// TestPendingUntilTheNextStart changes what an active network can't become without
// cutting off its guest: that goes on, and nothing moves, until the next start.
func TestPendingUntilTheNextStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.define(strings.Replace(natXML("one", "192.0.2"), "</network>",
			"<ip family='ipv6' address='2001:db8:1::1' prefix='64'/><route address='203.0.113.0' prefix='24' gateway='192.0.2.9'/></network>", 1))
		n, err := h.ByName("one")
		must(t, err)
		must(t, n.Start(t.Context()))
		guest := nstest.Guest(t, "one", "guest", "")
		guest.IP("addr add 192.0.2.77/24 dev eth0")
		nstest.Eventually(t, wait, "the guest reaches its gateway", func() error {
			return guest.Command(t.Context(), "ping", "-c1", "-W1", "192.0.2.1").Run()
		})
		flood := startFlood(t, guest, "192.0.2.1")
		own, live, before := string(n.XML(true)), string(n.XML(false)), kernel(t)
		for _, tt := range []struct{ old, new, pending string }{
			{"address='192.0.2.1' netmask='255.255.255.0'", "address='192.0.2.1' prefix='16'", "network/ip[1]: <ip address='192.0.2.1' netmask='255.255.255.0'> becomes"},
			{"<forward mode='nat'/>", "", "network/forward: <forward mode='nat'/> is gone"},
			{"mode='nat'", "mode='route'", "<forward mode='nat'/> becomes <forward mode='route'/>"},
			{"<forward mode='nat'/>", "<forward mode='nat' dev='eno9'/>", "network/forward"},
			{"bridge name='one'", "bridge name='two'", "network/bridge"},
			{"bridge name='one'", "bridge name='one' zone='public'", "network/bridge"},
			{"<mac address='" + n.Info().MAC, "<mac address='52:54:00:00:00:99", "network/mac"},
			{"<ip address", "<port isolated='yes'/><ip address", "network/port: <port isolated='yes'/> is new"},
			{"<ip address", "<dns enable='no'/><ip address", "network/dns"},
			{"<ip family='ipv6' address='2001:db8:1::1' prefix='64'>\n  </ip>\n", "", "<ip family='ipv6' address='2001:db8:1::1' prefix='64'/> is gone"},
			{"gateway='192.0.2.9'", "gateway='192.0.2.8'", "network/route"},
		} {
			next := strings.Replace(own, tt.old, tt.new, 1)
			if next == own {
				t.Fatalf("%q is not in\n%s", tt.old, own)
			}
			d := h.defineWith(next, api.DefineOptions{Strict: true})
			if got := strings.Join(n.Pending(), "\n"); !strings.Contains(got, tt.pending) || got != strings.Join(d.Pending, "\n") {
				t.Errorf("%q: pending is %q, want %q", tt.new, got, tt.pending)
			}
			if diff := cmp.Diff(live, string(n.XML(false))); diff != "" {
				t.Errorf("%q: what is live changed (-before +after):\n%s", tt.new, diff)
			}
			if string(n.XML(true)) == own {
				t.Errorf("%q: the definition is what it was", tt.new)
			}
			if diff := cmp.Diff(before, kernel(t)); diff != "" {
				t.Errorf("%q: links and rules (-before +after):\n%s", tt.new, diff)
			}
		}
		flood.stop(t)

		moved := strings.ReplaceAll(own, "192.0.2.", "198.51.100.")
		h.defineWith(moved, api.DefineOptions{Strict: true})
		h.end()
		h = newHub(t, root, hubOptions{})
		n, err = h.ByName("one")
		must(t, err)
		if diff := cmp.Diff(live, string(n.XML(false))); diff != "" || len(n.Pending()) == 0 {
			t.Errorf("after a restart of vnetd pending is %q, what is live (-before +after):\n%s", n.Pending(), diff)
		}
		must(t, n.Stop(t.Context()))
		must(t, n.Start(t.Context()))
		if got := nstest.IP(t, "addr show dev one"); len(n.Pending()) > 0 || !strings.Contains(got, "198.51.100.1/24") {
			t.Errorf("after stop and start pending is %q, the bridge\n%s", n.Pending(), got)
		}
	})
}

// TestHarmlessPartsAtOnce mixes what harms with what does not in one document.
func TestHarmlessPartsAtOnce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		next := strings.NewReplacer(
			"mode='nat'", "mode='route'", "<ip address", "<domain name='vm.example'/><dns><host ip='192.0.2.80'><hostname>web</hostname></host></dns><ip address",
			"192.0.2.254", "192.0.2.99", "</network>", "<route address='203.0.113.0' prefix='24' gateway='198.51.100.9'/><ip address='198.51.100.1' prefix='24'/></network>",
		).Replace(natXML("one", "192.0.2"))
		d := h.defineWith(next, api.DefineOptions{})
		if want := []string{"network/forward: <forward mode='nat'/> becomes <forward mode='route'/>"}; !cmp.Equal(d.Pending, want) || len(d.Changes) < 5 {
			t.Errorf("pending is %q, want %q; changed %q", d.Pending, want, d.Changes)
		}
		if got := lookup(t, "192.0.2.1", "web.vm.example"); len(got) != 1 || got[0] != "192.0.2.80" {
			t.Errorf("web.vm.example is %v", got)
		}
		if got := nstest.IP(t, "route show 203.0.113.0/24"); !strings.Contains(got, "198.51.100.9") {
			t.Errorf("the new route is not there: %q", got)
		}
		// The subnet of the new route comes at the next start, and the route with it.
		h.defineWith(strings.ReplaceAll(strings.ReplaceAll(next, "192.0.2.", "10.9.9."), "203.0.113.0' prefix='24' gateway='198.51.100.9", "203.0.113.0' prefix='25' gateway='10.9.9.9"), api.DefineOptions{})
		doc, err := netdef.Parse(n.XML(false))
		must(t, err)
		must(t, doc.Validate())
		if got := strings.Join(n.Pending(), "\n"); !strings.Contains(got, "10.9.9.1") || !strings.Contains(got, "network/route") {
			t.Errorf("pending is %q, want the subnet and the route", got)
		}
		before := string(n.XML(false))
		h.defineWith(strings.Replace(natXML("one", "192.0.2"), "myhost", "yourhost", 1), api.DefineOptions{Apply: api.ApplyNothing})
		if diff := cmp.Diff(before, string(n.XML(false))); diff != "" || !strings.Contains(strings.Join(n.Pending(), "\n"), "yourhost") {
			t.Errorf("nothing was to be applied: pending is %q, live (-before +after):\n%s", n.Pending(), diff)
		}
		if d := h.defineWith(string(n.XML(true)), api.DefineOptions{Apply: api.ApplyAll}); d.Action != "applied" || !strings.Contains(strings.Join(d.Changes, "\n"), "yourhost") || len(d.Pending) > 0 {
			t.Errorf("all was to be applied: %s, changes %q, pending %q", d.Action, d.Changes, d.Pending)
		}
		if got := lookup(t, "192.0.2.1", "yourhost"); len(got) != 1 {
			t.Errorf("yourhost is %v", got)
		}
	})
}

// refusing are rules that can't be made for one bridge.
type refusing struct {
	realRules
	bridge string
}

func (r refusing) Set(ctx context.Context, n firewall.Network) error {
	if n.Bridge == r.bridge {
		return errors.New("no rules today")
	}
	return r.realRules.Set(ctx, n)
}

// TestDefineAtOnceRestarts applies what takes a restart: a port finds the new
// bridge. What can't be started leaves all as it was.
func TestDefineAtOnceRestarts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{rules: func(r network.Rules) network.Rules { return refusing{r, "broken"} }})
		n := h.started(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3}})
		defer f.Close()
		all := api.DefineOptions{Apply: api.ApplyAll}
		before := string(n.XML(true))
		_, err := h.DefineWith(t.Context(), []byte(strings.Replace(before, "name='one'", "name='broken'", 1)), all)
		if err == nil || !strings.Contains(err.Error(), "no rules today") {
			t.Errorf("a restart without rules: %v", err)
		}
		if h.master(info.IfName) != "one" || linkExists("broken") || string(n.XML(true)) != before || !n.Info().Active {
			t.Errorf("after a restart that failed the port is on %q, the network %+v", h.master(info.IfName), n.Info())
		}
		h.defineWith(strings.Replace(before, "name='one'", "name='two'", 1), all)
		if h.master(info.IfName) != "two" || linkExists("one") || len(n.Pending()) > 0 {
			t.Errorf("the port is on %q, pending %q", h.master(info.IfName), n.Pending())
		}
	})
}

// TestModeWithoutABridgeInheritsNone changes an inactive network from a bridge of
// its own to one of the host's and back.
func TestModeWithoutABridgeInheritsNone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.define(natXML("one", "192.0.2"))
		h.define("<network><name>one</name><forward mode='bridge'><interface dev='eth0'/></forward></network>")
		if got := string(n.XML(true)); strings.Contains(got, "<mac") || strings.Contains(got, "<bridge") {
			t.Errorf("a bridge or its address was made up:\n%s", got)
		}
		h.define("<network><name>one</name><forward mode='bridge'/><bridge name='br0'/></network>")
		h.define("<network><name>one</name><ip address='192.0.2.1' prefix='24'/></network>")
		if got := n.Info(); got.Bridge == "br0" || got.MAC == "" {
			t.Errorf("a bridge of its own is %q with the address %q", got.Bridge, got.MAC)
		}
	})
}

// TestOneSubnetTwoNetworks runs two networks of one subnet in turn.
func TestOneSubnetTwoNetworks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		one, two := h.define(natXML("one", "192.0.2")), h.define(natXML("two", "192.0.2"))
		must(t, one.Start(t.Context()))
		before := kernel(t)
		err := two.Start(t.Context())
		if network.KindOf(err) != api.Conflict || err == nil || !strings.Contains(err.Error(), "overlaps the subnet 192.0.2.0/24 of network 'one'") {
			t.Errorf("start beside one: %v, want a conflict that names it", err)
		}
		if diff := cmp.Diff(before, kernel(t)); diff != "" {
			t.Errorf("it left (-before +after):\n%s", diff)
		}
		h.define(strings.Replace(natXML("two", "192.0.2"), "myhost", "yourhost", 1))
		must(t, h.Reload(t.Context()))
		h.end()
		h = newHub(t, root, hubOptions{})
		one, err = h.ByName("one")
		must(t, err)
		two, err = h.ByName("two")
		must(t, err)
		must(t, one.Stop(t.Context()))
		var starts sync.WaitGroup
		errs := make([]error, 2)
		for i, n := range []*network.Network{one, two} {
			starts.Go(func() { errs[i] = n.Start(t.Context()) })
		}
		starts.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || one.Info().Active == two.Info().Active {
			t.Errorf("both at once: %v, want one of them to start", errs)
		}
	})
}

// TestCreateOfADefinedNetwork starts an inactive network with another document for
// this once.
func TestCreateOfADefinedNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.define(natXML("one", "192.0.2"))
		own := string(n.XML(true))
		created, err := h.Create(t.Context(), []byte(strings.ReplaceAll(own, "192.0.2.", "198.51.100.")))
		must(t, err)
		if created != n || !n.Info().Persistent || string(n.XML(true)) != own || len(n.Pending()) == 0 {
			t.Errorf("%+v, pending %q", n.Info(), n.Pending())
		}
		if _, err := h.Create(t.Context(), []byte(own)); network.KindOf(err) != api.InvalidState {
			t.Errorf("create of an active network: %v, want InvalidState", err)
		}
		must(t, n.Stop(t.Context()))
		if string(n.XML(true)) != own {
			t.Errorf("after its stop it is\n%s", n.XML(true))
		}
	})
}
