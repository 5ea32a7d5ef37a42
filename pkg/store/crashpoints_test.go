//go:build !race

package store_test

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	godiff "github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// envSeed has TestCrashPoints leave other parts of what was not on disk; it prints which.
const envSeed = "VNETD_STORE_SEED"

// facts is what a store knows. What it knows until the host boots begins with "run ".
type facts map[string]string

// step is one call of a store.
type step struct {
	name    string
	do      func(s *store.Store) error
	becomes facts // what is another fact once it is acknowledged, empty for what is none any more
	between facts // as becomes, what may be left of it by a crash or an error beside all or nothing
}

// with is what is known with changes.
func (f facts) with(changes facts) facts {
	f = maps.Clone(f)
	for k, v := range changes {
		if v == "" {
			delete(f, k)
		} else {
			f[k] = v
		}
	}
	return f
}

// rebooted is what is known after the host has booted.
func (f facts) rebooted() facts {
	f = maps.Clone(f)
	maps.DeleteFunc(f, func(k, _ string) bool { return strings.HasPrefix(k, "run ") })
	return f
}

// The networks and ports of the steps.
const (
	portA = "aaaaaaaa-0000-4000-8000-00000000000a"
	portB = "bbbbbbbb-0000-4000-8000-00000000000b"
)

func networkOn(t *testing.T, name, uuid, bridge string) *netdef.Network {
	t.Helper()
	return parse(t, "<network><name>"+name+"</name><uuid>"+uuid+"</uuid><bridge name='"+bridge+"'/></network>")
}

// life is what is asked of a store while networks are defined, started, used, changed, renamed,
// stopped and undefined, as pkg/network does it.
func life(t *testing.T) []step {
	t.Helper()
	one, other, renamed, transient := networkOn(t, "one", uuid, "b1"), networkOn(t, "one", uuid, "b2"), networkOn(t, "two", uuid, "b2"), networkOn(t, "three", otherUUID, "b3")
	define := func(n *netdef.Network) step {
		return step{"define " + n.Name, func(s *store.Store) error { return s.SaveDefinition(n) }, facts{"definition " + n.Name: n.Bridge.Name}, nil}
	}
	undefine := func(name string) step {
		gone := facts{"definition " + name: "", "autostart " + name: ""}
		return step{"undefine " + name, func(s *store.Store) error { _, err := s.DeleteDefinition(name); return err }, gone, facts{"autostart " + name: ""}}
	}
	autostart := func(name string, on bool) step {
		fact := facts{"autostart " + name: ""}
		if on {
			fact = facts{"autostart " + name: "on"}
		}
		return step{fmt.Sprintf("autostart %s %v", name, on), func(s *store.Store) error { return s.SetAutostart(name, on) }, fact, nil}
	}
	run := func(n *netdef.Network, phase store.Phase) step {
		r := store.Run{Phase: phase, Network: n, Persistent: n != transient, Host: json.RawMessage(`{"put":"back"}`)}
		return step{"run " + string(phase), func(s *store.Store) error { return s.SaveRun(r) }, facts{"run " + n.UUID: string(phase) + n.Bridge.Name}, nil}
	}
	ended := func(n *netdef.Network) step {
		return step{"ended", func(s *store.Store) error { return s.DeleteRun(n.UUID) }, facts{"run " + n.UUID: ""}, nil}
	}
	stopped := func(is bool) step {
		fact, was := facts{"run stopped " + uuid: ""}, (*netdef.Network)(nil)
		if is {
			fact, was = facts{"run stopped " + uuid: "yes"}, one
		}
		return step{fmt.Sprintf("stopped %v", is), func(s *store.Store) error { return s.Stops().Set(uuid, was) }, fact, nil}
	}
	port := func(id, dev string) step {
		p := store.Port{UUID: id, Network: uuid, IfName: dev, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
		return step{"port " + dev, func(s *store.Store) error { return s.SavePort(p) }, facts{"run port " + id: dev}, nil}
	}
	unplug := func(id string) step {
		return step{"unplug", func(s *store.Store) error { return s.DeletePort(id) }, facts{"run port " + id: ""}, nil}
	}
	uplink := func(owed string) step {
		fact := facts{"run uplink b1": owed}
		if owed == "" {
			return step{"uplink given back", func(s *store.Store) error { return s.Uplinks().Delete("b1") }, fact, nil}
		}
		return step{"uplink", func(s *store.Store) error { return s.Uplinks().Save("b1", json.RawMessage(owed)) }, fact, nil}
	}
	copied := func(n *netdef.Network) step {
		return step{"copy", func(s *store.Store) error { return s.Copies().Save(n) }, facts{"copy " + n.UUID: n.Bridge.Name}, nil}
	}
	uncopied := step{"no copy", func(s *store.Store) error { return s.Copies().Drop(uuid) }, facts{"copy " + uuid: ""}, nil}
	leased := func(last byte, name string) step {
		l := lease(last, name)
		return step{"lease", func(s *store.Store) error { return s.Leases(uuid).Commit([]dhcpd.Lease{l}, nil) }, facts{"lease " + uuid + " " + l.Addr.String(): name}, nil}
	}
	released := func(last byte) step {
		a := lease(last, "").Addr
		return step{"release", func(s *store.Store) error { return s.Leases(uuid).Commit(nil, []netip.Addr{a}) }, facts{"lease " + uuid + " " + a.String(): ""}, nil}
	}
	dropped := step{"drop leases", func(s *store.Store) error { return s.DropLeases(uuid) }, facts{"lease " + uuid + " " + lease(11, "").Addr.String(): ""}, nil}
	rename := func(from string, to *netdef.Network, on bool) step {
		becomes := facts{"definition " + from: "", "autostart " + from: "", "definition " + to.Name: to.Bridge.Name, "autostart " + to.Name: ""}
		if on {
			becomes["autostart "+to.Name] = "on"
		}
		return step{"rename " + from, func(s *store.Store) error { return s.RenameDefinition(from, to, on) }, becomes, nil}
	}
	imported := step{"import", (*store.Store).SetImported, facts{"imported": "yes"}, nil}

	return []step{
		imported,
		define(one), autostart("one", true), autostart("one", true),
		stopped(false), run(one, store.Starting), uplink(`{"owed":1}`), uplink(`{"owed":2}`), run(one, store.Active), // start
		port(portA, "vnet0"), leased(10, "a"), port(portB, "vnet1"), leased(11, "b"), port(portA, "vnet7"), leased(11, "bb"),
		copied(one), define(other), // a change that is pending
		released(10), unplug(portA),
		stopped(true), run(one, store.Stopping), unplug(portB), uplink(""), ended(one), uncopied, // stop
		stopped(false), run(other, store.Starting), run(other, store.Active), // start
		run(transient, store.Starting), run(transient, store.Active), run(transient, store.Stopping), ended(transient),
		stopped(true), run(other, store.Stopping), ended(other), uncopied, // stop
		autostart("one", false), autostart("one", true),
		rename("one", renamed, true), autostart("two", false), rename("two", other, false), rename("one", renamed, false), autostart("two", true),
		undefine("two"), undefine("two"), uncopied, stopped(false), dropped,
	}
}

// known is what a store knows.
func known(t *testing.T, s *store.Store) facts {
	t.Helper()
	f := facts{}
	var faults []*store.Fault
	add := func(more []*store.Fault, err error) {
		must(t, err)
		faults = append(faults, more...)
	}
	defs, more, err := s.Definitions()
	add(more, err)
	for _, d := range defs {
		f["definition "+d.Network.Name] = d.Network.Bridge.Name
	}
	for _, name := range []string{"one", "two"} { // defined or not
		if s.Autostarts(name) {
			f["autostart "+name] = "on"
		}
	}
	runs, more, err := s.Runs()
	add(more, err)
	for _, r := range runs {
		f["run "+r.Network.UUID] = string(r.Phase) + r.Network.Bridge.Name
	}
	ports, more, err := s.Ports()
	add(more, err)
	for _, p := range ports {
		f["run port "+p.UUID] = p.IfName
	}
	stops, err := s.Stops().All()
	add(nil, err)
	for _, id := range stops {
		f["run stopped "+id] = "yes"
	}
	uplinks, more, err := s.Uplinks().All()
	add(more, err)
	for bridge, owed := range uplinks {
		f["run uplink "+bridge] = string(owed)
	}
	for _, id := range []string{uuid, otherUUID} {
		if n, err := s.Copies().Read(id); err == nil {
			f["copy "+id] = n.Bridge.Name
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
		leases, err := s.Leases(id).Load()
		must(t, err)
		for _, l := range leases {
			f["lease "+id+" "+l.Addr.String()] = l.Hostname
		}
	}
	if s.Imported() {
		f["imported"] = "yes"
	}
	for _, fault := range faults {
		t.Errorf("half a file: %v", fault)
	}
	return f
}

// crashes is a test of what crashes leave.
type crashes struct {
	t     *testing.T
	r     *rand.Rand
	at    string  // where it is, for messages
	may   []facts // what may be known now
	tried int
}

// newCrashes is one with the seed that the environment says, or by chance.
func newCrashes(t *testing.T) *crashes {
	t.Helper()
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv(envSeed), strconv.FormatUint(rand.Uint64(), 10)), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", envSeed, err)
	}
	t.Logf("%s=%d", envSeed, seed)
	return &crashes{t: t, r: rand.New(rand.NewPCG(seed, 0))}
}

// after has the process be killed, and the power be cut, as the disk is now.
func (c *crashes) after(d *disk) {
	c.t.Helper()
	if c.t.Failed() { // one is enough, and no Fatal: the store that goes on holds locks
		return
	}
	c.recover("killed", d.root.killed(), c.may)
	cuts := lasting(d).cuts(c.r)
	if filepath.Base(d.in) == "leases" { // pkg/leasedb has more tests of what is there
		at := c.r.IntN(len(cuts))
		cuts = cuts[at : at+1]
	}
	for i, left := range cuts {
		c.recover(fmt.Sprintf("power cut %d", i), left, rebooted(c.may))
	}
}

// rebooted is what may be known after the host has booted.
func rebooted(may []facts) (booted []facts) {
	for _, f := range may {
		booted = append(booted, f.rebooted())
	}
	return booted
}

// lasting is a copy of what there is, without /run, which is in memory.
func lasting(d *disk) *node {
	root := d.root.killed()
	for _, names := range append([]change{root.names, root.namesOnDisk}, root.changes...) {
		delete(names, "run")
	}
	return root
}

// recover opens a store on what is left, and has the power be cut while it is opened, and right
// after: it knows one of what it may know, nothing is damaged, and nothing stray is left.
func (c *crashes) recover(how string, root *node, may []facts) {
	c.t.Helper()
	d := diskWith(c.t, root)
	var meanwhile *node
	if c.r.IntN(4) == 0 {
		crash := 1 + c.r.IntN(20)
		d.after = func() {
			if d.calls == crash {
				meanwhile = lasting(d).cut(damage{func(int) bool { return c.r.IntN(2) == 0 }, nil})
			}
		}
	}
	got := c.open(how, d, may)
	lasts := lasting(d)
	if changes, data := lasts.pending(); changes > 0 || data {
		c.open(how+", power cut after the next start", diskWith(c.t, lasts.cut(damage{})), []facts{got.rebooted()})
	}
	if meanwhile != nil {
		c.open(how+", power cut within the next start", diskWith(c.t, meanwhile), rebooted(may))
	}
}

// open opens a store, looks, closes it and removes it.
func (c *crashes) open(how string, d *disk, may []facts) facts {
	c.t.Helper()
	defer d.remove()
	c.tried++
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	if err != nil {
		c.t.Errorf("%s: %s: %v", c.at, how, err)
		return may[0]
	}
	defer closed(c.t, s)
	if err := s.LeaseDamage(); err != nil {
		c.t.Errorf("%s: %s: %v", c.at, how, err)
	}
	got := known(c.t, s)
	c.allow(how, got, may)
	c.noneStray(how, d)
	return got
}

// allow complains unless what is known is one of what may be.
func (c *crashes) allow(how string, got facts, may []facts) {
	c.t.Helper()
	for _, f := range may {
		if maps.Equal(got, f) {
			return
		}
	}
	c.t.Errorf("%s: %s: this is not as acknowledged (-want +got), nor one of %d others:\n%s", c.at, how, len(may)-1, godiff.Diff(may[0], got))
}

// noneStray complains about files that are not yet whole, and those of former versions.
func (c *crashes) noneStray(how string, d *disk) {
	c.t.Helper()
	must(c.t, filepath.WalkDir(d.path, func(path string, e fs.DirEntry, err error) error {
		if stray, _ := filepath.Match(store.Temporary, e.Name()); stray || strings.HasPrefix(e.Name(), "leases.") {
			c.t.Errorf("%s: %s: left behind: %s", c.at, how, path)
		}
		return err
	}))
}

// states is what may be known within a step, and at last after it.
func (st step) states(before facts) []facts {
	all := []facts{before, before.with(st.becomes)}
	if st.between != nil {
		all = append(all, before.with(st.between))
	}
	return all
}

// passing reports whether a step changes nothing but what is known until the host boots.
func (st step) passing() bool { return len(st.becomes.rebooted()) == 0 }

// defines reports whether a step is a definition: the former one is put back where the disk lets.
func (st step) defines() bool { return strings.HasPrefix(st.name, "define ") }

// TestRefusedChanges has the disk refuse each change of each step in the life of networks, that
// one alone or all from then on: whoever is told of no error may rely on it, with an error there
// is all or nothing, and nothing of run-state and of a definition that can be put back, and when the disk takes changes again the step can be done
// again, for good.
func TestRefusedChanges(t *testing.T) {
	t.Parallel()
	c, base, now := newCrashes(t), newDirectory(), facts{}
	for i, st := range life(t) {
		refused := true
		for nth := 1; refused; nth++ {
			for _, all := range []bool{false, true} {
				c.at = fmt.Sprintf("step %d, %s, change %d refused, all from then on: %v", i, st.name, nth, all)
				refused = c.refuse(base, st, now, nth, all) && !t.Failed()
			}
		}
		base, now = c.done(base, st), now.with(st.becomes)
	}
}

// done is what is on disk after a step.
func (c *crashes) done(base *node, st step) *node {
	c.t.Helper()
	d := diskWith(c.t, base.killed())
	defer d.remove()
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(c.t, err)
	must(c.t, st.do(s))
	must(c.t, s.Close())
	return d.root
}

// refuse has the disk refuse the nth change of a step, or all from that on. It reports whether
// there is such a change.
func (c *crashes) refuse(base *node, st step, before facts, nth int, all bool) (refused bool) {
	c.t.Helper()
	d := diskWith(c.t, base.killed())
	defer d.remove()
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(c.t, err)
	nth += d.calls
	d.refuse = func(call int) bool {
		is := call == nth || all && call > nth
		refused = refused || is
		return is
	}
	err = st.do(s)
	d.refuse = nil
	after := []facts{before.with(st.becomes)}
	may := after
	switch {
	case err == nil:
	case st.passing() || st.defines() && !all:
		may = []facts{before}
	default:
		may = st.states(before)
	}
	c.allow(fmt.Sprintf("with the error %v", err), known(c.t, s), may)
	if err := st.do(s); err != nil {
		c.t.Fatalf("%s: the disk takes changes again, but: %v", c.at, err)
	}
	c.allow("done again", known(c.t, s), after)
	must(c.t, s.Close())
	c.open("done again, then a power cut", diskWith(c.t, lasting(d).cut(damage{})), rebooted(after))
	return refused
}

// TestRefusedStart has the disk refuse changes while a store is opened on what a crash has left:
// it is opened, or opened when the disk takes changes again, with all that was acknowledged, and
// whether definitions can be written does not matter.
func TestRefusedStart(t *testing.T) {
	t.Parallel()
	c, base, now := newCrashes(t), newDirectory(), facts{}
	for _, st := range life(t)[:17] {
		base, now = c.done(base, st), now.with(st.becomes)
	}
	const stray = ".vnetd-X.tmp"
	base.names["etc"].names["vnetd"].names["networks"].names[stray] = &node{data: []byte("half")}
	base.names["var"].names["vnetd"].names["live"].names[stray] = &node{data: []byte("half")}
	refused := true
	for nth := 1; refused; nth++ {
		refused = false
		if t.Failed() {
			break
		}
		for _, all := range []bool{false, true} {
			c.at = fmt.Sprintf("change %d refused, all from then on: %v", nth, all)
			d := diskWith(t, base.killed())
			d.refuse = func(call int) bool {
				is := call == nth || all && call > nth
				refused = refused || is
				return is
			}
			if s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler)); err == nil {
				c.allow("opened", known(t, s), []facts{now})
				must(t, s.Close())
			} else if !errors.Is(err, errDisk) {
				t.Fatalf("%s: %v", c.at, err)
			}
			d.refuse = nil
			c.open("opened again", d, []facts{now})
		}
	}
	c.at = "nothing of definitions can be changed"
	d := diskWith(t, base.killed())
	defer d.remove()
	d.refuse = func(int) bool { return strings.HasPrefix(d.in, filepath.Join(d.path, "etc")) }
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(t, err)
	c.allow("opened", known(t, s), []facts{now})
	must(t, s.Close())
}

// TestFormerLeasesAtCrashPoints has the machine crash while the leases of a former version are
// taken over: they are there, and nothing else of that version.
func TestFormerLeasesAtCrashPoints(t *testing.T) {
	t.Parallel()
	c, former := newCrashes(t), diskWith(t, newDirectory())
	defer former.remove()
	writeFormer(t, former.dirs())
	d := diskWith(t, read(t, former.path))
	defer d.remove()
	now := facts{"lease " + otherUUID + " 192.0.2.7": "last"}
	for addr, name := range formerNames() {
		now["lease "+uuid+" "+addr] = name
	}
	c.at, c.may = "taking over", []facts{now}
	d.after = func() { c.after(d) }
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(t, err)
	c.after(d)
	closed(t, s)
	t.Logf("%d changes on disk, %d starts after crashes", d.calls, c.tried)
}

// TestRemovedFolderAtCrashPoints has somebody remove a folder of the store's, and a crash come
// after each change on disk of what is written there next.
func TestRemovedFolderAtCrashPoints(t *testing.T) {
	t.Parallel()
	c, d := newCrashes(t), diskWith(t, newDirectory())
	defer d.remove()
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(t, err)
	defer closed(t, s)
	state := d.find(d.path + "/var/vnetd")
	must(t, os.RemoveAll(d.path+"/var/vnetd/live"))
	delete(state.names, "live")
	delete(state.namesOnDisk, "live")
	n, now := networkOn(t, "one", uuid, "b1"), facts{"copy " + uuid: "b1"}
	c.at, c.may = "writing to a folder that was removed", []facts{{}, now}
	d.after = func() { c.after(d) }
	must(t, s.Copies().Save(n))
	c.at, c.may = "written to a folder that was removed", []facts{now}
	c.after(d)
}

// TestCrashPoints has the process be killed, and the power be cut, after every change on disk in
// the life of networks, and in what the next start does: what was acknowledged is there, what
// was not is there as a whole or not at all, and neither is damage or anything else.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	c, d := newCrashes(t), diskWith(t, newDirectory())
	defer d.remove()
	d.after = func() { c.after(d) }
	now := facts{}
	c.at, c.may = "open", []facts{now}
	s, err := store.Open(d.dirs(), slog.New(slog.DiscardHandler))
	must(t, err)
	for i, st := range life(t) {
		c.at, c.may = fmt.Sprintf("step %d, %s", i, st.name), st.states(now)
		must(t, st.do(s))
		now = now.with(st.becomes)
		c.at, c.may = c.at+", acknowledged", []facts{now}
		c.after(d)
		if t.Failed() {
			break
		}
	}
	closed(t, s)
	t.Logf("%d changes on disk, %d starts after crashes", d.calls, c.tried)
}
