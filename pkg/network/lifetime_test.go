package network_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestPortIsTheHolders ends a port with whoever holds it, and not with its files.
func TestPortIsTheHolders(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		info, f := h.port(n, network.PortOptions{Lifetime: "bus", Holder: "a"})
		kept, g := h.port(n, network.PortOptions{Lifetime: "bus", Holder: "b"})
		must(t, f.Close())
		defer g.Close()
		if diff := cmp.Diff([]string{"a", "b"}, slices.Sorted(slices.Values(h.Ports().Holders()))); diff != "" {
			t.Errorf("holders (-want +got):\n%s", diff)
		}
		if h.master(info.IfName) != "one" {
			t.Error("without its files the port is gone")
		}
		h.Ports().HolderGone("a")
		if ports := h.Ports().List(); len(ports) != 1 || ports[0].UUID != kept.UUID || linkExists(info.IfName) {
			t.Errorf("after the end of its holder: %v", ports)
		}
		h.Ports().HolderGone("b")
		if len(h.Ports().Holders())+len(h.Ports().List()) != 0 || linkExists(kept.IfName) {
			t.Error("the end of a holder left a port that is open")
		}
	})
}

// TestSamePortAgain asks for a port that is there.
func TestSamePortAgain(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		two := h.started(natXML("two", "198.51.100"))
		want := network.PortOptions{ID: "vm1/0", Lifetime: "persistent", Owner: 1000, Queues: 2, Name: "web"}
		first, files, err := h.Ports().Request(t.Context(), n, want)
		must(t, err)
		refused := func(n *network.Network, opts network.PortOptions, kind api.Kind, says string) {
			t.Helper()
			_, _, err := h.Ports().Request(t.Context(), n, opts)
			if network.KindOf(err) != kind || !strings.Contains(err.Error(), says) {
				t.Errorf("%+v: %v, want %s that says %q", opts, err, kind, says)
			}
		}
		refused(n, want, api.Busy, first.IfName)
		closeAll(t, files)
		again, files, err := h.Ports().Request(t.Context(), n, want)
		must(t, err)
		if diff := cmp.Diff(first, again, addrs); diff != "" || len(files) != 2 {
			t.Errorf("%d files, the port (-first +again):\n%s", len(files), diff)
		}
		closeAll(t, files)
		other := want
		other.Queues = 1
		refused(n, other, api.Exists, "queues")
		refused(two, want, api.Exists, `"one"`)
		// Another user's ids are others; what a machine is called, its MAC remembers.
		other.Owner, other.Name = 1001, ""
		foreign, f := h.port(n, other)
		defer f.Close()
		if foreign.UUID == first.UUID || foreign.MAC == first.MAC {
			t.Errorf("another user got %+v", foreign)
		}
		must(t, h.Ports().Release(t.Context(), first.UUID))
		next, files, err := h.Ports().Request(t.Context(), n, want)
		must(t, err)
		closeAll(t, files)
		if next.UUID == first.UUID || next.MAC != first.MAC {
			t.Errorf("after its end the port is %+v, was %+v", next, first)
		}
	})
}

func closeAll(t *testing.T, files []*os.File) {
	t.Helper()
	for _, f := range files {
		must(t, f.Close())
	}
}

// TestAllLifetimesOverARestart restarts the hub under 20 ports, half of whose
// owners end meanwhile.
func TestAllLifetimesOverARestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		var stay []api.Port
		var ending []func()
		for i := range 20 {
			opts := network.PortOptions{
				Lifetime: []string{"fd", "bus", "persistent"}[i%3], Name: fmt.Sprint("guest", i), Owner: uint32(i),
				Addrs: ips(fmt.Sprint("192.0.2.", 100+i)),
			}
			if opts.Lifetime == "bus" {
				opts.Holder = fmt.Sprint("client", i)
			}
			info, f := h.port(n, opts)
			t.Cleanup(func() { _ = f.Close() })
			if i%2 == 0 {
				stay = append(stay, info)
				continue
			}
			switch opts.Lifetime {
			case "fd":
				ending = append(ending, func() { must(t, f.Close()) })
			case "persistent":
				ending = append(ending, func() { nstest.IP(t, "link del "+info.IfName) })
			}
		}
		h.end()
		for _, end := range ending {
			end()
		}
		h = newHub(t, root, hubOptions{})
		for _, holder := range h.Ports().Holders() {
			i := 0
			_, err := fmt.Sscanf(holder, "client%d", &i)
			must(t, err)
			if i%2 == 1 {
				h.Ports().HolderGone(holder)
			}
		}
		until(t, "exactly the right ports are there", func() bool { return cmp.Diff(stay, h.Ports().List(), addrs) == "" })
		records, _, err := h.store.Ports()
		must(t, err)
		if taps := strings.Count(nstest.Exec(t, "ip", "tuntap"), "vnet"); len(records) != len(stay) || taps != len(stay) {
			t.Errorf("%d records and %d TAP devices of %d ports", len(records), taps, len(stay))
		}
		for i := range 20 {
			got := lookup(t, "192.0.2.1", fmt.Sprint("guest", i))
			if alive := i%2 == 0; alive != slices.Equal(got, []string{fmt.Sprint("192.0.2.", 100+i)}) || !alive && len(got) != 0 {
				t.Errorf("guest%d is %v", i, got)
			}
		}
		// What ended is free again.
		n, err = h.ByName("one")
		must(t, err)
		_, f := h.port(n, network.PortOptions{Addrs: ips("192.0.2.101")})
		must(t, f.Close())
	})
}

// TestAddressOfAPort reserves an address, leases it, and frees it with the port.
func TestAddressOfAPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{unguarded: true})
		n := h.started(natXML("one", "192.0.2"))
		const mac = "52:54:00:01:02:03"
		port, f := h.port(n, network.PortOptions{Name: "web", MAC: hardware(t, mac), Addrs: ips("192.0.2.200")})
		if got := lookup(t, "192.0.2.1", "web"); !slices.Equal(got, []string{"192.0.2.200"}) {
			t.Errorf("before it is up the guest is %v", got)
		}
		_, _, err := h.Ports().Request(t.Context(), n, network.PortOptions{Addrs: ips("192.0.2.200")})
		if network.KindOf(err) != api.Conflict {
			t.Errorf("the address for a second port: %v, want Conflict", err)
		}
		soon, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := h.Ports().WaitForAddress(soon, port.UUID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting for an address that nobody leases: %v", err)
		}
		// The guest is behind another device than the port's: its MAC counts.
		guest := nstest.Guest(t, "one", "guest", mac)
		guest.Exec("udhcpc", "-i", "eth0", "-n", "-q", "-t", "20", "-T", "1", "-x", "hostname:", "-s", "/bin/true")
		got, err := h.Ports().WaitForAddress(t.Context(), port.UUID)
		if diff := cmp.Diff(ips("192.0.2.200"), got, addrs); diff != "" || err != nil {
			t.Errorf("the guest's addresses (%v; -want +got):\n%s", err, diff)
		}
		until(t, "subscribers know", func() bool { return h.saw(network.PortChanged) })
		waiting := make(chan error)
		other, g := h.port(n, network.PortOptions{})
		go func() { _, err := h.Ports().WaitForAddress(t.Context(), other.UUID); waiting <- err }()
		must(t, g.Close())
		if err := <-waiting; network.KindOf(err) != api.NotFound {
			t.Errorf("waiting for a port that ended: %v", err)
		}
		must(t, f.Close())
		until(t, "the port is gone", func() bool { return len(h.Ports().List()) == 0 })
		until(t, "its leases and its name are gone", func() bool {
			leases, err := n.Leases()
			return err == nil && len(leases) == 0 && len(lookup(t, "192.0.2.1", "web")) == 0
		})
		_, f = h.port(n, network.PortOptions{Addrs: ips("192.0.2.200")})
		must(t, f.Close())
	})
}

// TestPortsComeBack takes ports off their bridge in every way there is.
func TestPortsComeBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(natXML("one", "192.0.2"))
		port, f := h.port(n, network.PortOptions{})
		defer f.Close()
		// What QEMU's bridge helper and libvirt make, and what an admin makes.
		nstest.IP(t, "tuntap add qemu0 mode tap")
		nstest.IP(t, "link set qemu0 address fe:54:00:00:00:01 master one up")
		nstest.IP(t, "tuntap add mine0 mode tap")
		nstest.IP(t, "link set mine0 address 52:54:00:00:00:02 master one up")
		back := func(what string, want bool, names ...string) {
			t.Helper()
			until(t, what, func() bool {
				return !slices.ContainsFunc(names, func(name string) bool { return (h.master(name) == "one") != want })
			})
		}
		nstest.IP(t, "link set "+port.IfName+" nomaster")
		back("the port is back", true, port.IfName)
		nstest.IP(t, "link del one")
		back("the ports are on a new bridge", true, port.IfName, "qemu0")
		back("the admin's is not", false, "mine0")
		must(t, n.Stop(t.Context()))
		back("all are off", false, port.IfName, "qemu0")
		must(t, n.Start(t.Context()))
		back("the ports are back after a stop", true, port.IfName, "qemu0")
		nstest.IP(t, "link set qemu0 nomaster")
		nstest.IP(t, "link add other type bridge")
		nstest.IP(t, "link set qemu0 master other")
		must(t, h.Reload(t.Context()))
		if h.master("qemu0") != "other" {
			t.Error("a device that was moved to another bridge was taken back")
		}
	})
}

// TestForeignPortsOverARestart deletes the bridge as soon as a new vnetd has
// adopted it, before anything was heard of what others have plugged in.
func TestForeignPortsOverARestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		h.started(natXML("one", "192.0.2"))
		nstest.IP(t, "tuntap add qemu0 mode tap")
		nstest.IP(t, "link set qemu0 address fe:54:00:00:00:01 master one up")
		h.end()
		h = newHub(t, root, hubOptions{})
		nstest.IP(t, "link del one")
		until(t, "the device is on the new bridge", func() bool { return h.master("qemu0") == "one" })
	})
}

// TestLimits gives a user no more than is allowed, and root all.
func TestLimits(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{limits: network.Limits{Ports: 2, Queues: 5}})
		n := h.started(natXML("one", "192.0.2"))
		request := func(owner uint32, queues int) (func(), error) {
			_, files, err := h.Ports().Request(t.Context(), n, network.PortOptions{Owner: owner, Queues: queues})
			return func() { closeAll(t, files) }, err
		}
		first, err := request(1000, 4)
		must(t, err)
		if _, err := request(1000, 2); network.KindOf(err) != api.LimitExceeded {
			t.Errorf("more queues than allowed: %v", err)
		}
		second, err := request(1000, 1)
		must(t, err)
		defer second()
		if _, err := request(1000, 1); network.KindOf(err) != api.LimitExceeded {
			t.Errorf("more ports than allowed: %v", err)
		}
		for _, owner := range []uint32{0, 0, 0, 1001} {
			end, err := request(owner, 4)
			must(t, err)
			defer end()
		}
		first()
		until(t, "a port that ended counts no more", func() bool {
			end, err := request(1000, 4)
			end()
			return err == nil
		})
	})
}
