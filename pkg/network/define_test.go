package network_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

func TestDefineRefuses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(natXML("first", "192.0.2"))
		before := files(t, h.dirs.Networks)
		for name, tt := range map[string]struct {
			xml  string
			kind api.Kind
			says []string
		}{
			"unknown mode": {
				"<network><name>n</name><forward mode='nats'/><bridge name='n'/></network>",
				api.Invalid,
				[]string{"network/forward/@mode", "nats"},
			},
			"two faults": {
				strings.ReplaceAll(natXML("bridge-name-of-16", "198.51.100"), "198.51.100.254", "198.51.101.9"),
				api.Invalid,
				[]string{"network/bridge/@name", "network/ip[1]/dhcp/range[1]", "198.51.101.9"},
			},
			"subnet of another": {
				natXML("second", "192.0.2"), api.Conflict, []string{"192.0.2.0/24", "first"},
			},
			"bridge of another": {
				strings.ReplaceAll(natXML("second", "198.51.100"), "<bridge name='second'/>", "<bridge name='first'/>"),
				api.Conflict,
				[]string{"network/bridge/@name", "first"},
			},
			"truncated": {natXML("n", "198.51.100")[:100], api.Invalid, []string{"line 1"}},
		} {
			_, err := h.Define(t.Context(), []byte(tt.xml))
			if network.KindOf(err) != tt.kind {
				t.Errorf("%s: %v is %s, want %s", name, err, network.KindOf(err), tt.kind)
			}
			for _, say := range tt.says {
				if err == nil || !strings.Contains(err.Error(), say) {
					t.Errorf("%s: error %q does not say %q", name, err, say)
				}
			}
		}
		if diff := cmp.Diff(before, files(t, h.dirs.Networks)); diff != "" || len(h.Networks()) != 1 {
			t.Errorf("a definition that was refused left %d networks, files (-before +after):\n%s", len(h.Networks()), diff)
		}
	})
}

// files lists what is below dir.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.Walk(dir, func(path string, _ os.FileInfo, err error) error {
		all = append(all, path)
		return err
	})
	must(t, err)
	return all
}

// TestRedefineKeepsWhatItIs defines a document without UUID and MAC twice.
func TestRedefineKeepsWhatItIs(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.define(natXML("one", "192.0.2"))
		before := n.Info()
		if again := h.define(natXML("one", "198.51.100")); again != n {
			t.Error("a second definition made a second network")
		}
		if diff := cmp.Diff(before.UUID+before.MAC, n.Info().UUID+n.Info().MAC); diff != "" {
			t.Errorf("UUID and MAC changed: %s", diff)
		}
	})
}

// TestThereAndBackKeepsTheBridge defines an active network as one on a host's
// bridge, and takes that back: the guests' gateway is the one they know.
func TestThereAndBackKeepsTheBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		doc := strings.Replace(natXML("one", "192.0.2"), "<bridge name='one'/>", "", 1)
		n := h.started(doc)
		before := n.Info()
		h.define("<network><name>one</name><forward mode='bridge'/><bridge name='hostbr'/></network>")
		h.define(doc)
		after := n.Info()
		if diff := cmp.Diff(before.MAC+before.Bridge, after.MAC+after.Bridge); diff != "" {
			t.Errorf("MAC and bridge changed: %s", diff)
		}
		if pending := n.Pending(); len(pending) != 0 {
			t.Errorf("pending is %v, want nothing", pending)
		}
	})
}

func TestUndefine(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		must(t, n.SetAutostart(true))
		must(t, n.Undefine(t.Context()))
		if info := n.Info(); !info.Active || info.Persistent || info.Autostart {
			t.Errorf("an active network is %+v after undefine, want it active and transient", info)
		}
		if err := n.Undefine(t.Context()); network.KindOf(err) != api.InvalidState {
			t.Errorf("undefine of a transient network: %v, want InvalidState", err)
		}
		must(t, n.Stop(t.Context()))
		if _, err := h.ByName("one"); network.KindOf(err) != api.NotFound {
			t.Errorf("after its stop a transient network: %v, want NotFound", err)
		}
		until(t, "its end is told", func() bool { return h.saw(network.NetworkUndefined) })

		n = h.define(natXML("one", "192.0.2"))
		must(t, n.Undefine(t.Context()))
		if len(h.Networks()) != 0 {
			t.Error("an inactive network is still there after undefine")
		}
		if left := files(t, h.dirs.Networks); len(left) != 2 {
			t.Errorf("files left: %v, want the two directories", left)
		}
	})
}

// TestStoppedStaysStopped restarts the hub after an autostart network was stopped
// by hand: it stays so until it is started, all is reloaded, or cleaned up.
func TestStoppedStaysStopped(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		must(t, n.SetAutostart(true))
		restarted := func(step string, active bool) {
			t.Helper()
			h.end()
			h = newHub(t, root, hubOptions{})
			var err error
			if n, err = h.ByName("one"); err != nil || n.Info().Active != active {
				t.Fatalf("restarted after %s: %+v, %v, want active %v", step, n.Info(), err, active)
			}
		}
		must(t, n.Stop(t.Context()))
		restarted("stop", false)
		restarted("another restart", false)
		must(t, h.Reload(t.Context()))
		restarted("reload", true)
		must(t, n.Stop(t.Context()))
		must(t, n.Start(t.Context()))
		restarted("start", true)
		must(t, n.Stop(t.Context()))
		h.end()
		h = newHub(t, root, hubOptions{bare: true})
		must(t, h.Cleanup(t.Context()))
		restarted("clean-up", true)
	})
}

// TestAutostart starts what is marked, and completes what an admin copied into
// the directory by hand.
func TestAutostart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		must(t, h.define(natXML("one", "192.0.2")).SetAutostart(true))
		h.define(natXML("two", "198.51.100"))
		h.end()
		must(t, os.WriteFile(filepath.Join(h.dirs.Networks, "three.xml"), []byte(natXML("three", "203.0.113")), 0o600))
		must(t, os.Symlink("/etc/libvirt/qemu/networks/three.xml", filepath.Join(h.dirs.Networks, "autostart", "three.xml")))
		must(t, os.WriteFile(filepath.Join(h.dirs.Networks, "bad.xml"), []byte("<network>"), 0o600))

		h = newHub(t, root, hubOptions{})
		for name, active := range map[string]bool{"one": true, "two": false, "three": true} {
			n, err := h.ByName(name)
			must(t, err)
			if n.Info().Active != active {
				t.Errorf("network %s: %+v, want active %v", name, n.Info(), active)
			}
		}
		text, err := os.ReadFile(filepath.Join(h.dirs.Networks, "three.xml"))
		must(t, err)
		if !strings.Contains(string(text), "<uuid>") || !strings.Contains(string(text), "<mac address=") {
			t.Errorf("the copied definition was not completed:\n%s", text)
		}
	})
}

func TestUnsupportedIsRefusedAtStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.define("<network><name>n</name><forward mode='bridge'/><bridge name='br0'/><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></network>")
		err := n.Start(t.Context())
		if network.KindOf(err) != api.Unsupported {
			t.Errorf("start: %v, want Unsupported", err)
		}
	})
}

// TestDefineWhileATransientNetworkStops lets a definition and the end of a
// network of the same name meet: whoever comes first, the definition stays.
func TestDefineWhileATransientNetworkStops(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		for range 10 {
			n, err := h.Create(t.Context(), []byte(natXML("one", "192.0.2")))
			must(t, err)
			var stopped sync.WaitGroup
			stopped.Go(func() {
				if err := n.Stop(t.Context()); err != nil {
					t.Errorf("stop: %v", err)
				}
			})
			h.define(natXML("one", "192.0.2"))
			stopped.Wait()
			n, err = h.ByName("one")
			must(t, err)
			if !n.Info().Active {
				must(t, n.Start(t.Context()))
			}
			must(t, n.Stop(t.Context()))
			must(t, n.Undefine(t.Context()))
			if err := n.Start(t.Context()); network.KindOf(err) != api.NotFound {
				t.Errorf("start of a network that is gone: %v, want NotFound", err)
			}
		}
	})
}

// TestLookupByBridge has the name of a bridge stand for the network that makes it, or else for one
// that is active on it.
func TestLookupByBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		nstest.IP(t, "link add br0 type bridge")
		on := func(name, bridge string) *network.Network {
			return h.define("<network><name>" + name + "</name><forward mode='bridge'/><bridge name='" + bridge + "'/></network>")
		}
		finds := func(bridge, want string) {
			t.Helper()
			if n, err := h.Lookup(bridge); err != nil || n.Name() != want {
				t.Errorf("the network on %s is %v, %v, want %s", bridge, n, err, want)
			}
		}
		on("a", "br0")
		b := on("b", "br0")
		finds("br0", "a")
		must(t, b.Start(t.Context()))
		finds("br0", "b")
		own := h.started(strings.Replace(natXML("own", "192.0.2"), "bridge name='own'", "bridge name='br1'", 1))
		must(t, on("c", "br1").Start(t.Context()))
		finds("br1", "own")
		finds(strings.ToUpper(own.Info().UUID), "own")
	})
}
