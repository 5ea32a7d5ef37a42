package network_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/attach"
)

// reloading reloads h again and again until the function that it returns is called.
func reloading(t *testing.T, h *hub) (end func()) {
	t.Helper()
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = h.Reload(t.Context())
			}
		}
	}()
	return func() {
		close(stop)
		<-ended
	}
}

// TestReloadBesideChanges changes a definition and its mark for autostart while definitions are
// read again and again, and finds each change that was acknowledged.
func TestReloadBesideChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		must(t, os.MkdirAll(filepath.Join(root, "networks"), 0o755))
		for i := range 60 { // to read takes its time
			xml := fmt.Sprintf("<network><name>z%d</name><forward mode='bridge'/><bridge name='br%[1]d'/></network>", i)
			must(t, os.WriteFile(filepath.Join(root, "networks", fmt.Sprintf("z%d.xml", i)), []byte(xml), 0o600))
		}
		h := newHub(t, root, hubOptions{})
		n, err := h.Define(t.Context(), []byte(natXML("one", "192.0.2")))
		must(t, err)
		end := reloading(t, h)
		const changes = 150
		var wrong int
		for i := range changes {
			on := i%2 == 0
			must(t, n.SetAutostart(on))
			must(t, n.Edit(t.Context(), network.TargetConfig, func(doc *netdef.Network) error {
				doc.Description += "x"
				return nil
			}))
			if n.Info().Autostart != on {
				wrong++
			}
		}
		end()
		if wrong > 0 {
			t.Errorf("%d of %d times the mark for autostart is not as it was set", wrong, changes)
		}
		if got := n.Definition().Description; got != strings.Repeat("x", changes) {
			t.Errorf("%d of %d changes are in the definition", len(got), changes)
		}
		must(t, h.Reload(t.Context()))
		if got := n.Definition().Description; got != strings.Repeat("x", changes) {
			t.Errorf("%d of %d changes are on disk", len(got), changes)
		}
	})
}

// TestReloadBesideStart defines a network while a reload may wait for another one, which is busy.
func TestReloadBesideStart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n, err := h.Define(t.Context(), []byte(natXML("one", "192.0.2")))
		must(t, err)
		must(t, n.Begin()) // as its start has it until its hook ends
		reloaded, defined := make(chan error, 1), make(chan error, 1)
		go func() { reloaded <- h.Reload(t.Context()) }()
		time.Sleep(300 * time.Millisecond)
		go func() {
			_, err := h.Define(t.Context(), []byte(natXML("two", "198.51.100")))
			defined <- err
		}()
		select {
		case err := <-defined:
			must(t, err)
		case <-time.After(wait):
			t.Error("nothing can be defined while a network that nobody has changed is busy")
		}
		n.End()
		must(t, <-reloaded)
	})
}

// registerLibvirts registers the first ports of libvirt's on n.
func registerLibvirts(t *testing.T, h *hub, n *network.Network, count byte) {
	t.Helper()
	for i := range count {
		_, err := h.Ports().Register(t.Context(), n, libvirts(i), false, 0)
		must(t, err)
	}
}

// TestReloadBesideRename renames a network with many ports, and undefines it at last, while ports
// are looked for again and again: there is no other network in between, and none is left.
func TestReloadBesideRename(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		registerLibvirts(t, h, n, 200)
		must(t, n.Stop(t.Context()))
		end := reloading(t, h)
		for i := range 60 {
			time.Sleep(time.Duration(i%20) * 500 * time.Microsecond) // at any point of a reload
			by, err := h.Rename(t.Context(), n, []string{"two", "one"}[i%2])
			if err != nil {
				t.Errorf("rename %d: %v", i, err)
				break
			}
			n = by
		}
		if err := n.Undefine(t.Context()); err != nil {
			t.Error(err)
		}
		end()
		for _, n := range h.Networks() {
			t.Errorf("there is %+v", n.Info())
		}
	})
}

// TestEndedBesideReload ends ports of libvirt's once their records were read, and finds that they
// stay so.
func TestEndedBesideReload(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		registerLibvirts(t, h, n, 2)
		read, _, err := h.store.Ports()
		must(t, err)
		must(t, h.Ports().Release(t.Context(), libvirts(0).UUID))
		h.Ports().Orphans().Load(read, nil, func(string) attach.Network { return n }, nil)
		if ports := h.Ports().List(); len(ports) != 1 || ports[0].UUID != libvirts(1).UUID {
			t.Errorf("ports are %+v, want the one that has not ended", ports)
		}
	})
}

// TestReloadBesideEnds ends ports of libvirt's while ports are looked for again and again: no
// reload fails for it, and none comes back.
func TestReloadBesideEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		registerLibvirts(t, h, n, 200)
		ended := make(chan error, 1)
		go func() {
			var errs []error
			for i := range byte(200) {
				time.Sleep(time.Millisecond)
				errs = append(errs, h.Ports().Release(t.Context(), libvirts(i).UUID))
			}
			ended <- errors.Join(errs...)
		}()
		for again := true; again; {
			if err := h.Reload(t.Context()); err != nil {
				t.Errorf("reloading: %v", err)
			}
			select {
			case err := <-ended:
				must(t, err)
				again = false
			default:
			}
		}
		if ports := h.Ports().List(); len(ports) > 0 {
			t.Errorf("%d ports are left", len(ports))
		}
		left, _, err := h.store.Ports()
		must(t, err)
		if len(left) > 0 {
			t.Errorf("run-state of %d is left", len(left))
		}
	})
}
