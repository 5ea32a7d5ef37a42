package network_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/network/port"
)

const halfUUID = "77777777-0000-4000-8000-000000000001"

// halfXML is the network "one" with a UUID.
func halfXML() string {
	return strings.Replace(natXML("one", "192.0.2"), "</name>", "</name><uuid>"+halfUUID+"</uuid>", 1)
}

// TestHalfWay has a second fault meet a first one: what could not be brought to its end,
// or can't be read, stays known and harms no guest.
func TestHalfWay(t *testing.T) {
	for name, body := range map[string]func(t *testing.T){
		"a definition with a typo":                     brokenDefinition,
		"a definition of an inactive network":          brokenInactive,
		"a definition broken while vnetd runs":         brokenAtReload,
		"a kill while a transient network stops":       killedStopping,
		"a stop that fails":                            failedStop,
		"a stop that can't be recorded":                unrecordedStop,
		"a port that can't be deleted":                 failedRelease,
		"run-state removed while vnetd runs":           removedRunning,
		"ports that are made while they are looked at": watchedMaking,
		"a device that was renamed meanwhile":          renamedAway,
		"a port that has lost its network":             orphanedAgain,
		"run-state removed while vnetd is away":        removedAway,
		"run-state of a transient network removed":     removedTransient,
		"run-state removed while a change is pending":  removedPending,
		"a pending change and a host that boots":       bootedPending,
		"cleanup without run-state":                    cleanupByMarks,
		"too few descriptors at start":                 fewDescriptors,
		"rules that can't be made when it is adopted":  failedAdoption,
		"a network undefined while its port stays":     failedUndefine,
		"a network undefined, not for sure":            unsureUndefine,
		"a life on a disk that fails":                  unsyncedLife,
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) { nstest.Run(t, body) })
	}
}

// definitionFile is the file of network one.
func (h *hub) definitionFile() string { return filepath.Join(h.dirs.Networks, "one.xml") }

// persistentPort requests one that stays, and closes its file.
func (h *hub) persistentPort(n *network.Network) api.Port {
	h.t.Helper()
	info, file := h.port(n, network.PortOptions{Lifetime: api.LifetimePersistent, Name: "web", ID: "my id", Queues: 1})
	must(h.t, file.Close())
	return info
}

// condition waits for one of that kind, and returns it.
func (h *hub) condition(kind string) (c api.Condition) {
	h.t.Helper()
	until(h.t, "condition "+kind, func() bool {
		for _, found := range h.Conditions() {
			if found.Kind == kind {
				c = found
				return true
			}
		}
		return false
	})
	return c
}

// wantError wants an error of a kind that says something.
func wantError(t *testing.T, err error, kind api.Kind, say string) {
	t.Helper()
	if network.KindOf(err) != kind || !strings.Contains(err.Error(), say) {
		t.Errorf("error %v (%v), want %v that says %q", err, network.KindOf(err), kind, say)
	}
}

// spoil makes a file one that can't be read, and returns how to mend it.
func spoil(t *testing.T, path string) (mend func()) {
	t.Helper()
	good, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, []byte(strings.Replace(string(good), "<forward", "<forward mode=", 1)), 0o600))
	return func() { must(t, os.WriteFile(path, good, 0o600)) }
}

func brokenDefinition(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	n := h.started(halfXML())
	must(t, n.SetAutostart(true))
	port := h.persistentPort(n)
	h.end()
	mend := spoil(t, h.definitionFile())

	h = newHub(t, root, hubOptions{})
	n, err := h.ByName("one")
	must(t, err)
	if info := n.Info(); !info.Active || !info.Persistent || !info.Autostart || h.master(port.IfName) != "one" {
		t.Errorf("with a typo in its definition it is %+v, its port is on %q", info, h.master(port.IfName))
	}
	if c := h.condition("definition-unusable"); !strings.Contains(c.Evidence, h.definitionFile()) || c.Remedy == "" || !cmp.Equal(c.Networks, []string{"one"}) {
		t.Errorf("the condition is %+v", c)
	}
	must(t, n.Stop(t.Context()))
	if info := n.Info(); info.Active || !info.Persistent || !linkExists(port.IfName) || len(h.Ports().On(n)) != 1 {
		t.Errorf("stopped, it is %+v with ports %v", info, h.Ports().On(n))
	}
	wantError(t, n.Start(t.Context()), api.InvalidState, h.definitionFile())
	mend()
	must(t, h.Reload(t.Context()))
	if info := n.Info(); !info.Active || h.master(port.IfName) != "one" {
		t.Errorf("mended, it is %+v, its port is on %q", info, h.master(port.IfName))
	}
	until(t, "the condition is gone", func() bool { return len(n.Conditions()) == 0 })
}

func brokenInactive(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	port := h.persistentPort(h.started(halfXML()))
	n, err := h.ByName("one")
	must(t, err)
	must(t, n.Stop(t.Context()))
	h.end()
	mend := spoil(t, h.definitionFile())

	h = newHub(t, root, hubOptions{})
	_, err = h.ByName("one")
	wantError(t, err, api.NotFound, h.definitionFile())
	h.condition("definition-unusable")
	_, err = h.Define(t.Context(), []byte(natXML("one", "192.0.2")))
	wantError(t, err, api.Exists, h.definitionFile())
	_, err = h.Create(t.Context(), []byte(strings.Replace(halfXML(), "<name>one", "<name>two", 1)))
	wantError(t, err, api.Conflict, halfUUID)
	if got := h.Ports().List(); len(got) != 1 || got[0].UUID != port.UUID || got[0].Network != "" || !linkExists(port.IfName) {
		t.Errorf("its ports are %+v", got)
	}
	mend()
	must(t, h.Reload(t.Context()))
	n, err = h.ByName("one")
	must(t, err)
	if got := h.Ports().On(n); len(got) != 1 || got[0].UUID != port.UUID {
		t.Errorf("mended, its ports are %+v", got)
	}
}

func brokenAtReload(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.started(halfXML())
	spoil(t, h.definitionFile())
	broken, err := os.ReadFile(h.definitionFile())
	must(t, err)
	if err := h.Reload(t.Context()); err == nil {
		t.Error("reload does not tell of the file")
	}
	h.condition("definition-unusable")
	host := netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionIPDHCPHost, Index: -1, XML: []byte("<host mac='52:54:00:00:00:07' ip='192.0.2.7'/>")}
	wantError(t, n.Update(t.Context(), host, network.TargetConfig), api.InvalidState, h.definitionFile())
	if now, _ := os.ReadFile(h.definitionFile()); string(now) != string(broken) {
		t.Error("the file that an admin was about to mend was overwritten")
	}
	must(t, n.Stop(t.Context()))
	must(t, n.Start(t.Context())) // as it was read last
}

func killedStopping(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	before := kernel(t)
	n, err := h.Create(t.Context(), []byte(halfXML()))
	must(t, err)
	h.persistentPort(n)
	h.end()
	file := filepath.Join(h.dirs.Run, "networks", halfUUID+".json")
	data, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, []byte(strings.Replace(string(data), `"active"`, `"stopping"`, 1)), 0o600))

	h = newHub(t, root, hubOptions{})
	if diff := cmp.Diff(before, kernel(t)); diff != "" || len(h.Ports().List())+len(h.Networks()) != 0 {
		t.Errorf("the stop was not brought to its end: ports %v, networks %d (-before +after):\n%s", h.Ports().List(), len(h.Networks()), diff)
	}
}

func failedStop(t *testing.T) {
	rules := &failing{}
	h := newHub(t, t.TempDir(), hubOptions{rules: func(r network.Rules) network.Rules { rules.realRules = r; return rules }})
	before := kernel(t)
	n, err := h.Create(t.Context(), []byte(halfXML()))
	must(t, err)
	rules.del = errors.New("lock held")
	for range 2 {
		if err := n.Stop(t.Context()); !errors.Is(err, rules.del) {
			t.Errorf("stop: %v, want %v", err, rules.del)
		}
		if known, err := h.ByUUID(halfUUID); err != nil || known.Info().State != api.Failed {
			t.Errorf("after a failed stop it is %v, %v", known, err)
		}
	}
	h.condition("network-unfinished")
	if runs, _, _ := h.store.Runs(); len(runs) != 1 {
		t.Errorf("run-state is %v before the network is gone", runs)
	}
	must(t, n.Begin())
	rules.del = nil
	n.End()
	until(t, "it is taken down without anybody's help", func() bool { return len(h.Networks()) == 0 })
	if diff := cmp.Diff(before, kernel(t)); diff != "" {
		t.Errorf("in the end (-before +after):\n%s", diff)
	}
}

// unrecordedStop has a network stop while that can't be written down, which matters where the next
// vnetd would start it.
func unrecordedStop(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.started(halfXML())
	record := filepath.Join(h.dirs.Run, "stopped", halfUUID)
	must(t, os.MkdirAll(filepath.Join(record, "not empty"), 0o755))
	must(t, n.SetAutostart(true))
	if err := n.Stop(t.Context()); err == nil || n.Info().State != api.Active {
		t.Errorf("stopped: %v, and then it is %v", err, n.Info().State)
	}
	must(t, n.SetAutostart(false))
	must(t, n.Stop(t.Context()))
	must(t, os.RemoveAll(record))
	must(t, n.SetAutostart(true))
	must(t, n.Start(t.Context()))
	must(t, n.Stop(t.Context()))
	if stopped, err := h.store.Stops().All(); len(stopped) != 1 || err != nil {
		t.Errorf("stopped are %v, %v", stopped, err)
	}
}

// limitFiles sets how many files the process may have open.
func limitFiles(t *testing.T, n uint64) (restore func()) {
	t.Helper()
	var limit unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: limit.Max}))
	return func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) }
}

func failedRelease(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.started(halfXML())
	port := h.persistentPort(n)
	restore := limitFiles(t, 3)
	err := h.Ports().Release(t.Context(), port.UUID)
	again := h.Ports().Release(t.Context(), port.UUID)
	known := h.Ports().List()
	restore()
	if !errors.Is(err, unix.EMFILE) || !errors.Is(again, unix.EMFILE) || len(known) != 1 {
		t.Fatalf("without a descriptor: %v, then %v, with ports %v", err, again, known)
	}
	until(t, "it is deleted without anybody's help", func() bool { return len(h.Ports().List()) == 0 })
	if linkExists(port.IfName) {
		t.Error("the port is gone, its device is not")
	}
	if onDisk, _ := h.store.Recorded(); len(onDisk.Ports) != 0 {
		t.Errorf("records of ports that are gone: %v", onDisk.Ports)
	}
}

func failedUndefine(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.started(halfXML())
	port := h.persistentPort(n)
	must(t, n.Stop(t.Context()))
	record := filepath.Join(h.dirs.Run, "ports", port.UUID+".json")
	must(t, errors.Join(os.Remove(record), os.MkdirAll(filepath.Join(record, "not empty"), 0o755)))
	err := n.Undefine(t.Context())
	if _, known := h.ByName("one"); err == nil || known != nil || len(h.Ports().List()) != 1 {
		t.Fatalf("undefined while its port can't be deleted: %v, and then it is %v with ports %v", err, known, h.Ports().List())
	}
	must(t, os.RemoveAll(record))
	must(t, n.Undefine(t.Context()))
	if linkExists(port.IfName) || len(h.Ports().List()) != 0 {
		t.Errorf("undefined, its port is still there: %v", h.Ports().List())
	}
}

// unsureUndefine has the kernel refuse to make durable that a definition is gone, which it is.
func unsureUndefine(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.define(halfXML())
	must(t, os.RemoveAll(filepath.Join(h.dirs.Networks, "autostart"))) // its fsync would be the first to fail
	refuseSync(t)
	if err := n.Undefine(t.Context()); !errors.Is(err, unix.EIO) {
		t.Errorf("undefined on a disk that can't make it durable: %v, want %v", err, unix.EIO)
	}
	if _, err := h.ByName("one"); network.KindOf(err) != api.NotFound {
		t.Errorf("its definition is gone, and looked up it is: %v, want %v", err, api.NotFound)
	}
}

// unsyncedLife has the kernel refuse to make anything durable while a network starts, has a port,
// stops and is undefined: run-state, which ends with the host's boot, is not of the disk, and the
// last of it goes with the network.
func unsyncedLife(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.define(halfXML())
	refuseSync(t)
	must(t, n.Start(t.Context()))
	port := h.persistentPort(n)
	must(t, n.Stop(t.Context()))
	must(t, n.Start(t.Context()))
	must(t, h.Ports().Release(t.Context(), port.UUID))
	must(t, n.Stop(t.Context()))
	if err := n.Undefine(t.Context()); !errors.Is(err, unix.EIO) {
		t.Errorf("undefined: %v, want %v", err, unix.EIO)
	}
	if onDisk, err := h.store.Recorded(); len(onDisk.Networks)+len(onDisk.Ports) != 0 || err != nil {
		t.Errorf("a network that is gone has left run-state: %+v, %v", onDisk, err)
	}
}

// refuseSync makes fsync(2) fail with EIO in every thread of this process, for good.
func refuseSync(t *testing.T) {
	t.Helper()
	const returnErrno, allow = 0x00050000, 0x7fff0000 // SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FSYNC, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: returnErrno | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1 // SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		t.Fatal(errno)
	}
}

// removeRunState deletes all of it.
func (h *hub) removeRunState() {
	h.t.Helper()
	for _, dir := range []string{"networks", "ports"} {
		must(h.t, os.RemoveAll(filepath.Join(h.dirs.Run, dir)))
	}
}

func removedRunning(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	port := h.persistentPort(h.started(halfXML()))
	recorded := func() bool {
		onDisk, err := h.store.Recorded()
		return err == nil && onDisk.Networks[halfUUID] && onDisk.Ports[port.UUID]
	}
	h.removeRunState()
	until(t, "run-state is written anew", recorded)
	for tries := 0; ; tries++ {
		h.removeRunState()
		if must(t, h.Reload(t.Context())); recorded() {
			break
		}
		if tries == 5 { // a network that is just being mended is left to the next look
			t.Fatal("reload has not written run-state anew")
		}
	}
	h.removeRunState()
	second := h.persistentPortNamed(t, "db")
	must(t, h.Ports().Release(t.Context(), second.UUID))
}

// persistentPortNamed is another persistent port of one.
// watchedMaking has ports made, whose devices are seen before they are in the books: none stays
// there as another program's.
func watchedMaking(t *testing.T) {
	h := newHub(t, t.TempDir(), hubOptions{})
	n := h.started(halfXML())
	for range 60 {
		_, file := h.port(n, network.PortOptions{})
		defer func() { must(t, file.Close()) }()
	}
	if others := h.Ports().Registry().On("one", port.Foreign); len(others) > 0 {
		t.Errorf("%d of 60 ports are another program's", len(others))
	}
}

// renamedAway has the device of a port renamed while vnetd is away: it is nobody's then, and is
// put back on its bridge as others are.
func renamedAway(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	was := h.persistentPort(h.started(halfXML()))
	h.end()
	nstest.IP(t, "link set "+was.IfName+" down")
	nstest.IP(t, "link set "+was.IfName+" name web0 up")
	h = newHub(t, root, hubOptions{})
	nstest.IP(t, "link del one")
	until(t, "it is on the new bridge", func() bool { return h.master("web0") == "one" })
}

// orphanedAgain has a port lose its network, and then the bridge of the host's on which it is.
func orphanedAgain(t *testing.T) {
	root := t.TempDir()
	lan := func() {
		nstest.IP(t, "link add lan type bridge")
		nstest.IP(t, "link set lan up")
	}
	lan()
	xml := "<network><name>one</name><uuid>" + halfUUID + "</uuid><forward mode='bridge'/><bridge name='lan'/></network>"
	h := newHub(t, root, hubOptions{})
	port := h.persistentPort(h.started(xml))
	h.end()
	h.removeRunState()
	must(t, os.Remove(h.definitionFile()))
	h = newHub(t, root, hubOptions{})
	h.condition("port-orphaned")
	h.started(strings.Replace(xml, halfUUID, strings.Replace(halfUUID, "7", "8", 1), 1))
	nstest.IP(t, "link del lan")
	until(t, "it is on no bridge", func() bool { return h.master(port.IfName) == "" })
	lan()
	until(t, "it is on the new bridge", func() bool { return h.master(port.IfName) == "lan" })
}

func (h *hub) persistentPortNamed(t *testing.T, name string) api.Port {
	n, err := h.ByName("one")
	must(t, err)
	info, file := h.port(n, network.PortOptions{Lifetime: api.LifetimePersistent, Name: name})
	must(t, file.Close())
	return info
}

func removedAway(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	h.persistentPort(h.started(halfXML()))
	before, index := h.Ports().List(), nstest.Exec(t, "cat", "/sys/class/net/one/ifindex")
	h.end()
	h.removeRunState()

	h = newHub(t, root, hubOptions{})
	n, err := h.ByName("one")
	must(t, err)
	if info := n.Info(); info.State != api.Active || nstest.Exec(t, "cat", "/sys/class/net/one/ifindex") != index {
		t.Errorf("known by its bridge, it is %+v", info)
	}
	sameTime := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
	if diff := cmp.Diff(before, h.Ports().List(), addrs, sameTime); diff != "" {
		t.Errorf("its ports (-before +after):\n%s", diff)
	}
	onDisk, err := h.store.Recorded()
	if !onDisk.Networks[halfUUID] || !onDisk.Ports[before[0].UUID] || err != nil {
		t.Errorf("run-state was not written anew: %+v, %v", onDisk, err)
	}
}

func removedTransient(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	n, err := h.Create(t.Context(), []byte(halfXML()))
	must(t, err)
	kept, ended := h.persistentPort(n), h.persistentPortNamed(t, "db")
	index := nstest.Exec(t, "cat", "/sys/class/net/one/ifindex")
	h.end()
	h.removeRunState()

	h = newHub(t, root, hubOptions{})
	h.condition("bridge-orphaned")
	h.condition("port-orphaned")
	if ports := h.Ports().List(); len(ports) != 2 || ports[0].Network != "" || ports[0].Bridge != "one" {
		t.Errorf("ports without their network: %+v", ports)
	}
	if p, err := h.Ports().Find(kept.UUID); err != nil || p.Name != "web" || p.ID != "my id" || p.MAC != kept.MAC {
		t.Errorf("the port says of itself %+v, %v", p, err)
	}
	must(t, h.Ports().Release(t.Context(), ended.UUID))
	if linkExists(ended.IfName) {
		t.Error("the device of a port that was released is still there")
	}
	n, err = h.Create(t.Context(), []byte(halfXML()))
	must(t, err)
	if info := n.Info(); info.State != api.Active || nstest.Exec(t, "cat", "/sys/class/net/one/ifindex") != index {
		t.Errorf("created on its own bridge, it is %+v", info)
	}
	if ports := h.Ports().On(n); len(ports) != 1 || ports[0].UUID != kept.UUID {
		t.Errorf("its ports are %+v", ports)
	}
}

// addresses are those of the bridge of one.
func addressesOfOne(t *testing.T) string {
	t.Helper()
	return nstest.IP(t, "-o addr show dev one scope global")
}

// pendingMove has the network one, which is active, move to another subnet at its next
// start.
func (h *hub) pendingMove(n *network.Network) {
	h.t.Helper()
	moved := strings.ReplaceAll(halfXML(), "192.0.2.", "198.51.100.")
	h.defineWith(moved, api.DefineOptions{})
	if len(n.Pending()) == 0 {
		h.t.Fatal("nothing is pending")
	}
}

// liveCopies lists what is kept of networks that differ from their definitions.
func (h *hub) liveCopies() []string {
	names, err := filepath.Glob(filepath.Join(h.dirs.State, "live", "*"))
	must(h.t, err)
	return names
}

func removedPending(t *testing.T) {
	root := t.TempDir()
	for what, change := range map[string]func(h *hub, n *network.Network){
		"defined": (*hub).pendingMove,
		"live alone": func(_ *hub, n *network.Network) {
			must(t, n.Edit(t.Context(), network.TargetLive, func(doc *netdef.Network) error {
				return doc.Update(netdef.Update{Command: netdef.CommandAddLast, Section: netdef.SectionDNSHost, Index: -1, XML: []byte("<host ip='192.0.2.9'><hostname>now</hostname></host>")})
			}))
		},
		"another bridge": func(h *hub, _ *network.Network) {
			h.defineWith(strings.Replace(halfXML(), "bridge name='one'", "bridge name='two'", 1), api.DefineOptions{})
		},
		"by an editor": func(h *hub, n *network.Network) {
			text, err := os.ReadFile(h.definitionFile())
			must(t, err)
			must(t, os.WriteFile(h.definitionFile(), []byte(strings.ReplaceAll(string(text), "192.0.2.", "198.51.100.")), 0o600))
			must(t, h.Reload(t.Context()))
		},
	} {
		h := newHub(t, root, hubOptions{})
		n := h.started(halfXML())
		change(h, n)
		live, pending, before := string(n.XML(false)), n.Pending(), addressesOfOne(t)
		h.end()
		h.removeRunState()

		h = newHub(t, root, hubOptions{})
		n, err := h.ByName("one")
		must(t, err)
		if diff := cmp.Diff(live, string(n.XML(false))); diff != "" || len(pending) == 0 || !cmp.Equal(pending, n.Pending()) {
			t.Errorf("%s: pending is %q, was %q, what is live (-before +after):\n%s", what, n.Pending(), pending, diff)
		}
		if diff := cmp.Diff(before, addressesOfOne(t)); diff != "" {
			t.Errorf("%s: the bridge moved under its guests (-before +after):\n%s", what, diff)
		}
		must(t, n.Stop(t.Context()))
		must(t, n.Start(t.Context()))
		if copies := h.liveCopies(); len(n.Pending()) > 0 || len(copies) > 0 {
			t.Errorf("%s: after its next start pending is %q, and kept %q", what, n.Pending(), copies)
		}
		must(t, n.Stop(t.Context()))
		must(t, n.Undefine(t.Context()))
		h.end()
	}
}

func bootedPending(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	n := h.started(halfXML())
	must(t, n.SetAutostart(true))
	h.pendingMove(n)
	h.end()
	h.removeRunState()
	nstest.IP(t, "link delete one")

	h = newHub(t, root, hubOptions{})
	n, err := h.ByName("one")
	must(t, err)
	if got := addressesOfOne(t); !n.Info().Active || !strings.Contains(got, "198.51.100.1/24") {
		t.Errorf("the host has booted, and the network has\n%s", got)
	}
	h.end()
	h.removeRunState()
	h = newHub(t, root, hubOptions{})
	if got := addressesOfOne(t); len(h.liveCopies()) > 0 || !strings.Contains(got, "198.51.100.1/24") {
		t.Errorf("known by its bridge alone, the network has, with %q kept,\n%s", h.liveCopies(), got)
	}
}

func cleanupByMarks(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	before := kernel(t)
	h.persistentPort(h.started(halfXML()))
	_, err := h.Create(t.Context(), []byte(natXML("two", "198.51.100")))
	must(t, err)
	h.end()
	must(t, os.Remove(filepath.Join(h.dirs.Run, "networks", halfUUID+".json")))
	must(t, os.RemoveAll(filepath.Join(h.dirs.Run, "ports")))

	h = newHub(t, root, hubOptions{bare: true})
	must(t, h.Cleanup(t.Context()))
	if diff := cmp.Diff(before, kernel(t)); diff != "" {
		t.Errorf("after the cleanup (-before +after):\n%s", diff)
	}
}

func fewDescriptors(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	h.started(halfXML())
	port := h.persistentPort(h.started(natXML("two", "198.51.100")))
	h.end()

	h = newHub(t, root, hubOptions{bare: true})
	h.watching()
	restore := limitFiles(t, 3)
	err := h.Load(t.Context())
	restore()
	must(t, err)
	until(t, "it heals without anybody's help", func() bool {
		for _, name := range []string{"one", "two"} {
			if n, err := h.ByName(name); err != nil || n.Info().State != api.Active {
				return false
			}
		}
		return true
	})
	if h.master(port.IfName) != "two" || len(h.Ports().List()) != 1 {
		t.Errorf("ports %v, on %q", h.Ports().List(), h.master(port.IfName))
	}
}

// watching waits until the hub has open what it watches links and rules by.
func (h *hub) watching() {
	h.t.Helper()
	n := h.started(natXML("zero", "203.0.113"))
	_, file := h.port(n, network.PortOptions{})
	must(h.t, file.Close())
	until(h.t, "links are watched", func() bool { return len(h.Ports().List()) == 0 })
	until(h.t, "rules are watched", func() bool {
		nstest.Exec(h.t, "iptables", "-F", "LIBVIRT_FWO")
		for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if strings.Contains(nstest.Exec(h.t, "iptables", "-S", "LIBVIRT_FWO"), "zero") {
				return true
			}
		}
		return false // where nobody was told, who watches is told of the next time
	})
}

func failedAdoption(t *testing.T) {
	root := t.TempDir()
	h := newHub(t, root, hubOptions{})
	h.started(halfXML())
	h.end()
	rules := &failing{set: errors.New("lock held")}
	h = newHub(t, root, hubOptions{rules: func(r network.Rules) network.Rules { rules.realRules = r; return rules }})
	n, err := h.ByName("one")
	must(t, err)
	if state := n.Info().State; state != api.Degraded {
		t.Errorf("without rules it is %s", state)
	}
	must(t, n.Begin())
	rules.set = nil
	n.End()
	until(t, "it heals without anybody's help", func() bool { return n.Info().State == api.Active })
}
