package network_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// libvirts is the n-th port of libvirt's, and the address of its guest's card.
func libvirts(n byte) *netdef.Port {
	uuid := fmt.Sprintf("0e1c9f52-77a4-4c0b-9d59-6a1f0f1d2c%02x", n)
	return &netdef.Port{UUID: uuid, Owner: netdef.Owner{Name: fmt.Sprintf("vm%d", n), UUID: uuid}, MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, n}}
}

// TestLibvirtsPortsCount holds that a port which another program registered stands in
// the way of others, and in the limits of who registered it, as vnetd's own does; and
// that it is so under the next vnetd.
func TestLibvirtsPortsCount(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		h := newHub(t, dir, hubOptions{limits: network.Limits{Ports: 2}})
		h.started(natXML("one", "192.0.2"))
		const user = 1000
		counts := func(has int) {
			t.Helper()
			n, err := h.ByName("one")
			must(t, err)
			for _, c := range []struct {
				what string
				opts network.PortOptions
				want api.Kind
			}{
				{"the address of a guest of libvirt's", network.PortOptions{MAC: libvirts(1).MAC}, api.Conflict},
				{"the name of a guest of libvirt's", network.PortOptions{Name: "VM1", Owner: 1001}, api.Conflict},
				{"one port too many", network.PortOptions{Owner: user}, api.LimitExceeded},
			} {
				if _, files, err := h.Ports().Request(t.Context(), n, c.opts); network.KindOf(err) != c.want || err == nil {
					t.Errorf("%s: %v, want %s", c.what, err, c.want)
					for _, f := range files {
						_ = f.Close()
					}
				}
			}
			if _, err := h.Ports().Register(t.Context(), n, libvirts(9), false, user); network.KindOf(err) != api.LimitExceeded || err == nil {
				t.Errorf("registering one port too many: %v", err)
			}
			if ports := h.Ports().List(); len(ports) != has || ports[has-1].Owner != user {
				t.Errorf("ports are %+v", ports)
			}
		}
		n, err := h.ByName("one")
		must(t, err)
		for i := range byte(2) {
			_, err := h.Ports().Register(t.Context(), n, libvirts(i+1), false, user)
			must(t, err)
		}
		counts(2)
		h.end()
		h = newHub(t, dir, hubOptions{limits: network.Limits{Ports: 2}})
		counts(2)
		must(t, h.Ports().Release(t.Context(), libvirts(2).UUID))
		n, err = h.ByName("one")
		must(t, err)
		_, f := h.port(n, network.PortOptions{Owner: user})
		must(t, f.Close())
		for i := range byte(3) { // of root there is no limit
			_, err := h.Ports().Register(t.Context(), n, libvirts(i+5), false, 0)
			must(t, err)
		}
	})
}

// TestAddressOfLibvirtsPort waits for the lease of a guest of libvirt's, of which
// subscribers are told, and for the end of its port.
func TestAddressOfLibvirtsPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		_, err := h.Ports().Register(t.Context(), n, libvirts(1), false, 0)
		must(t, err)
		told := make(chan []string, 10)
		cancel := h.Subscribe(func(e network.Event) {
			if e.Kind == network.PortChanged && e.Port.UUID == libvirts(1).UUID && len(e.Port.Addresses) == 1 {
				told <- []string{e.Port.Addresses[0].String()}
			}
		})
		defer cancel()
		guest := nstest.Guest(t, "one", "guest", libvirts(1).MAC.String())
		waited := make(chan error, 1)
		go func() {
			got, err := h.Ports().WaitForAddress(t.Context(), libvirts(1).UUID)
			if err == nil && (len(got) != 1 || !slices.Contains(<-told, got[0].String())) {
				err = fmt.Errorf("the addresses are %v", got)
			}
			waited <- err
		}()
		guest.Exec("udhcpc", "-i", "eth0", "-n", "-q", "-t", "20", "-T", "1", "-s", "/bin/true")
		must(t, <-waited)
		// A port that comes after the lease, as when a guest is restored, has it.
		must(t, h.Ports().Release(t.Context(), libvirts(1).UUID))
		_, err = h.Ports().Register(t.Context(), n, libvirts(1), false, 0)
		must(t, err)
		if p, err := h.Ports().Find(libvirts(1).UUID); err != nil || len(p.Addresses) != 1 {
			t.Errorf("the port that came after the lease is %+v (%v)", p, err)
		}
		go func() {
			_, err := h.Ports().Register(t.Context(), n, libvirts(2), false, 0)
			if err == nil {
				_, err = h.Ports().WaitForAddress(t.Context(), libvirts(2).UUID)
			}
			waited <- err
		}()
		until(t, "there is another port", func() bool { _, err := h.Ports().Find(libvirts(2).UUID); return err == nil })
		must(t, h.Ports().Release(t.Context(), libvirts(2).UUID))
		if err := <-waited; network.KindOf(err) != api.NotFound || errors.Is(err, t.Context().Err()) {
			t.Errorf("waiting for a port that ended: %v", err)
		}
	})
}

// TestOthersFindTheirBridge stops networks under devices of other programs, and finds those on the
// bridge again once it starts, under another name, and those that were registered by another vnetd;
// not so a device that is another one by now.
func TestOthersFindTheirBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		_, err := h.Ports().Register(t.Context(), n, libvirts(0x77), false, 0)
		must(t, err)
		nstest.IP(t, "tuntap add vnet78 mode tap")
		nstest.IP(t, "link set vnet78 address fe:54:00:00:00:78 master one up")
		tap, _ := libvirtsDevice(t, "vnet77", "one")
		defer tap.Close()
		until(t, "the device of the port is known", func() bool {
			p, err := h.Ports().Find(libvirts(0x77).UUID)
			return err == nil && p.IfName == "vnet77"
		})
		plugged := func(when, device, want string) {
			t.Helper()
			if got := h.master(device); got != want {
				t.Errorf("%s: %s is on %q, want %q", when, device, got, want)
			}
		}
		must(t, n.Stop(t.Context()))
		n, err = h.Rename(t.Context(), n, "two")
		must(t, err)
		must(t, n.Start(t.Context()))
		plugged("after a rename", "vnet77", "one")
		plugged("after a rename", "vnet78", "one")
		again := func() {
			must(t, n.Stop(t.Context()))
			h.end()
			h = newHub(t, root, hubOptions{})
			n, err = h.ByName("two")
			must(t, err)
			must(t, n.Start(t.Context()))
		}
		again()
		plugged("after a restart", "vnet77", "one")
		nstest.IP(t, "link set vnet77 down")
		nstest.IP(t, "link set vnet77 name vnet79")
		again()
		plugged("of another name", "vnet79", "")
	})
}
