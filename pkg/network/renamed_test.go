package network_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// TestRenamedWhileDown: a bridge that was renamed while no vnetd was running is known by its
// mark, gets its name back and keeps its guests, whether run-state is there or not.
func TestRenamedWhileDown(t *testing.T) {
	for name, lost := range map[string]bool{"recorded": false, "run-state lost": true} {
		t.Run(name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				root := t.TempDir()
				h := newHub(t, root, hubOptions{})
				port := h.persistentPort(h.started(halfXML()))
				index := nstest.Exec(t, "cat", "/sys/class/net/one/ifindex")
				before := kernel(t)
				h.end()
				if lost {
					h.removeRunState()
				}
				shell(t, "ip link set one down; ip link set one name other; ip link set other up")

				h = newHub(t, root, hubOptions{})
				n, err := h.ByName("one")
				must(t, err)
				if info := n.Info(); info.State != api.Active || info.LastError != "" {
					t.Errorf("the network is %+v", info)
				}
				if diff := cmp.Diff(before, kernel(t)); diff != "" {
					t.Errorf("the host (-before +after):\n%s", diff)
				}
				if now := nstest.Exec(t, "cat", "/sys/class/net/one/ifindex"); now != index || h.master(port.IfName) != "one" {
					t.Errorf("the bridge has the index %s, had %s; the port is on %q", now, index, h.master(port.IfName))
				}
			})
		})
	}
}

// TestRenamedAndHalfRemoved: a network that was being stopped when vnetd ended is cleared
// away under its bridge's other name, too.
func TestRenamedAndHalfRemoved(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(halfXML())
		h.end()
		path := filepath.Join(h.dirs.Run, "networks", halfUUID+".json")
		run, err := os.ReadFile(path)
		must(t, err)
		stopping := bytes.Replace(run, []byte(`"active"`), []byte(`"stopping"`), 1)
		if bytes.Equal(run, stopping) {
			t.Fatalf("no phase in %s", run)
		}
		must(t, os.WriteFile(path, stopping, 0o600))
		shell(t, "ip link set one down; ip link set one name other; ip link set other up")

		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("one")
		must(t, err)
		if info := n.Info(); info.Active || linkExists("one") || linkExists("other") {
			t.Errorf("the network is %+v", info)
		}
	})
}

// TestStrayBridge: where a network's mark is on several bridges, the one with its name is
// its bridge, else the one with its MAC address, and the other is named.
func TestStrayBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(halfXML())
		mark := strings.TrimSpace(nstest.Exec(t, "cat", "/sys/class/net/one/ifalias"))
		index := nstest.Exec(t, "cat", "/sys/class/net/one/ifindex")
		h.end()
		shell(t, "ip link set one down; ip link set one name other; ip link add copy type bridge; ip link set copy alias '"+mark+"'")

		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("one")
		must(t, err)
		if now := nstest.Exec(t, "cat", "/sys/class/net/one/ifindex"); now != index {
			t.Errorf("the bridge has the index %s, had %s", now, index)
		}
		if c := await(t, n, "bridge-stray", true); !strings.Contains(c.Message, "the bridge copy ") || !strings.Contains(c.Evidence, mark) {
			t.Errorf("the condition is %+v", c)
		}
		nstest.IP(t, "link del copy")
		await(t, n, "bridge-stray", false)
	})
}
