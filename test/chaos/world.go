package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// Who is at work: networks of guests, guests on them, and admins by either protocol.
const (
	bases         = 4
	guests        = 100
	busAdmins     = 9
	libvirtAdmins = 6
)

// drainEvery is after how many rounds all is taken down, to see what is left.
const drainEvery = 4

// Where vnetd answers, and has its state, which fits on a small disk.
const (
	libvirtSocket  = "/run/libvirt/virtnetworkd-sock"
	metricsAddress = "127.0.0.1:9753"
	configFile     = "/etc/vnetd/chaos.toml"
	stateDir       = "/var/lib/vnetd"
	stateSize      = "size=32m"
)

// world is all that there is.
type world struct {
	t     nstest.TB
	seed  uint64
	lab   *nstest.Lab
	vnetd *nstest.Vnetd
	books *books
	lots  *rand.Rand // of the faults
	kinds []fault
	watch *overBus // over which the checks ask

	resolved *nstest.Resolved
	bound    string // see mountPens

	admins  []*admin
	changer *changer
	guests  []*guest

	empty []string // what the kernel has where no network is active
	first size     // the heap of a fresh vnetd without networks; 0 until it is known
}

// baseName is the k-th network of guests.
func baseName(k int) string { return fmt.Sprintf("base%d", k) }

// baseXML is its document, with a name that says which edition it is.
func baseXML(k int, edition string) string {
	return fmt.Sprintf(`<network><name>%s</name><uuid>00000000-0000-4000-8000-00000000000%[2]d</uuid><forward mode='nat'/><bridge name='v%[1]s' stp='off' delay='0'/>
<domain name='%[1]s.test' localOnly='yes'/><dns><host ip='10.99.%[2]d.1'><hostname>router</hostname><hostname>%[3]s</hostname></host></dns>
<ip address='10.99.%[2]d.1' netmask='255.255.255.0'><dhcp><range start='10.99.%[2]d.10' end='10.99.%[2]d.99'/></dhcp></ip>
<ip family='ipv6' address='fd00:99:%[2]d::1' prefix='64'/></network>`, baseName(k), k, edition)
}

// newWorld starts vnetd, and the networks of the guests.
func newWorld(t nstest.TB, o options) *world {
	w := &world{t: t, seed: o.seed, books: newBooks(), lots: lotsOf(o.seed, "faults"), kinds: faultsOf(o.only), watch: new(overBus)}
	w.lab = nstest.NewLab(t)
	nstest.PublicTUN(t)
	w.resolved = nstest.StartResolved(t)
	config := fmt.Sprintf("firewall_backend = %q\n[libvirt]\nsocket = %q\npolkit = false\n[metrics]\nlisten = %q\n", o.backend, libvirtSocket, metricsAddress)
	err := errors.Join(
		os.MkdirAll(filepath.Dir(libvirtSocket), 0o755), os.WriteFile(configFile, []byte(config), 0o644),
		os.MkdirAll(stateDir, 0o755), unix.Mount("tmpfs", stateDir, "tmpfs", 0, stateSize),
	)
	if err != nil {
		t.Fatalf("making vnetd's configuration: %w", err)
	}
	if err := rememberConnections(); err != nil {
		t.Fatalf("having connections be remembered: %w", err)
	}
	if w.bound, err = mountPens(); err != nil {
		t.Fatalf("mounting control groups: %w", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(pens, unix.MNT_DETACH) })
	t.Cleanup(func() { w.watch.close() })
	w.start(nil)
	if err := w.found(); err != nil {
		t.Fatalf("making the networks of the guests: %w", err)
	}
	w.populate()
	return w
}

// found makes the networks of the guests. What is left in the kernel once they have been
// active is there for good.
func (w *world) found() (err error) {
	ctx := w.t.Context()
	for k := range bases {
		name := baseName(k)
		if err := errors.Join(w.watch.define(ctx, baseXML(k, "edition0")), w.watch.start(ctx, name), w.watch.stop(ctx, name)); err != nil {
			return err
		}
		n := w.books.network(name)
		n.defined, n.active, n.words = yes, yes, []string{"edition0"}
	}
	if w.empty, err = w.kernel(); err != nil {
		return err
	}
	for k := range bases {
		err = errors.Join(err, w.watch.start(ctx, baseName(k)))
	}
	return err
}

// populate has the clients be there.
func (w *world) populate() {
	for n := range busAdmins + libvirtAdmins {
		var p protocol = new(overBus)
		if n >= busAdmins {
			p = new(overLibvirt)
		}
		a := newAdmin(w, n, p)
		w.t.Cleanup(a.end)
		w.admins = append(w.admins, a)
	}
	w.changer = &changer{w: w, lots: lotsOf(w.seed, "changer"), bus: new(overBus)}
	w.t.Cleanup(w.changer.bus.close)
	for n := range guests {
		g := newGuest(w, n)
		w.t.Cleanup(func() { g.halt(); g.bus.close() })
		w.guests = append(w.guests, g)
	}
}

// start starts vnetd, with what a former one has left.
func (w *world) start(left []*os.File) {
	w.vnetd = w.lab.StartVnetdWith(left, "--config", configFile)
}

// disturb has all clients at work for as long as do takes.
func (w *world) disturb(do func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var clients sync.WaitGroup
	for _, a := range w.admins {
		clients.Go(func() { a.live(ctx) })
	}
	clients.Go(func() { w.changer.live(ctx) })
	for _, g := range w.guests {
		clients.Go(func() { g.live(ctx) })
	}
	defer clients.Wait()
	defer cancel()
	do(ctx)
}

// faults happen one after the other; it returns which did.
func (w *world) faults(ctx context.Context) string {
	var happened []string
	for until := time.Now().Add(roundTime); time.Now().Before(until) && ctx.Err() == nil; {
		pause(ctx, w.lots, 2*time.Second)
		f := w.draw()
		happened = append(happened, f.name)
		if err := f.do(w); err != nil {
			w.books.fault("fault %q: %w", f.name, err)
		}
	}
	return strings.Join(happened, ", ")
}
