package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

const uuid = "40b7c068-9791-4466-bfa6-77ca0bedb2e4"

func dirsIn(root string) store.Dirs {
	return store.Dirs{
		Networks: filepath.Join(root, "etc"), Run: filepath.Join(root, "run"), State: filepath.Join(root, "state"),
	}
}

// open opens a store; close it to open another over the same directories.
func open(t *testing.T, dirs store.Dirs) *store.Store {
	t.Helper()
	s, err := store.Open(dirs, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closed(t *testing.T, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, xml string) *netdef.Network {
	t.Helper()
	n, err := netdef.Parse([]byte(xml))
	if err == nil {
		err = n.Complete(netdef.Completion{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDefinitionsSurvive(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	one := parse(t, "<network><name>one</name><bridge name='b1'/></network>")
	// Not a name that a comment of XML could hold, or that looks half written.
	odd := parse(t, "<network><name>.tmp--x</name><bridge name='b3'/></network>")
	two := parse(t, "<network><name>two</name><bridge name='b2'/></network>")
	for _, err := range []error{
		s.SaveDefinition(one), s.SaveDefinition(two), s.SaveDefinition(odd), s.SetAutostart("two", true), s.SetAutostart("two", true),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	closed(t, s)
	s = open(t, dirs)
	got, _, err := s.Definitions()
	want := []store.Definition{{Network: odd}, {Network: one}, {Network: two, Autostart: true}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("definitions (%v) (-want +got):\n%s", err, diff)
	}
	if info, err := os.Stat(filepath.Join(dirs.Networks, "one.xml")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("definition file: %v, %v, want mode 0600", info, err)
	}
	for range 2 {
		if gone, err := s.DeleteDefinition("two"); !gone || err != nil {
			t.Fatalf("deleting a definition: gone %v, %v", gone, err)
		}
	}
	if err := s.SetAutostart("one", false); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	left, err := filepath.Glob(filepath.Join(dirs.Networks, "*", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("autostart links left: %v (%v)", left, err)
	}
}

// TestDefinitionNow reads single definitions again: one as it was saved, one whose rename is not
// finished, and one that is not there.
func TestDefinitionNow(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	defer closed(t, s)
	saved := parse(t, `<network><name>one</name><uuid>`+uuid+`</uuid></network>`)
	if err := errors.Join(s.SaveDefinition(saved), s.SetAutostart("one", true)); err != nil {
		t.Fatal(err)
	}
	rename := `{"from":"two","to":"three","autostart":true,"definition":"<network><name>three</name></network>"}`
	if err := os.WriteFile(filepath.Join(dirs.Networks, ".rename.json"), []byte(rename), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"one": nil, "two": os.ErrNotExist, "three": nil} {
		d, err := store.DefinitionNow(s, name)
		if !errors.Is(err, want) || err == nil && (d.Network.Name != name || !d.Autostart) {
			t.Errorf("%s is %+v, %v, want %v", name, d, err, want)
		}
	}
}

// TestDefinitionsAsCopiedFromLibvirt reads what an admin copied there: links to
// another place, files that are broken or bear another name.
func TestDefinitionsAsCopiedFromLibvirt(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	if err := os.MkdirAll(filepath.Join(dirs.Networks, "autostart"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"good.xml":        "<!-- a comment -->\n<network><name>good</name><bridge name='b1'/></network>",
		"broken.xml":      "<network><name>broken",
		"renamed.xml":     "<network><name>former</name></network>",
		"note.txt":        "not a definition",
		".vnetd-1234.tmp": "left by a crash",
	} {
		if err := os.WriteFile(filepath.Join(dirs.Networks, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/libvirt/qemu/networks/good.xml", filepath.Join(dirs.Networks, "autostart", "good.xml")); err != nil {
		t.Fatal(err)
	}
	s := open(t, dirs)
	defer closed(t, s)
	got, faults, err := s.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Network.Name != "good" || !got[0].Autostart {
		t.Errorf("definitions %v, want good alone, with autostart", got)
	}
	if len(faults) != 2 {
		t.Fatalf("faults %v, want those of two files", faults)
	}
	for i, name := range []string{"broken", "renamed"} {
		if f := faults[i]; f.Stem != name || !strings.Contains(f.Error(), name+".xml") {
			t.Errorf("fault %v of %q does not name %s", f, f.Stem, name)
		}
	}
	if _, err := os.Stat(filepath.Join(dirs.Networks, ".vnetd-1234.tmp")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the half-written file is still there (%v)", err)
	}
}

func TestRunStateSurvives(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	n := parse(t, "<network><name>n</name><bridge name='b1'/></network>")
	p := store.Port{
		UUID: uuid, Network: n.UUID, Name: "guest", MAC: net.HardwareAddr{0x52, 0x54, 0, 1, 2, 3},
		IfName: "vnet0", Index: 7, Lifetime: "fd", Owner: 1000, Created: time.Unix(1800000000, 0).UTC(),
	}
	if err := errors.Join(
		s.SaveRun(store.Run{Phase: store.Starting, Network: n}),
		s.SaveRun(store.Run{Phase: store.Active, Network: n, Persistent: true, Host: []byte("{}")}),
		s.SavePort(p),
	); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	s = open(t, dirs)
	defer closed(t, s)
	runs, _, err := s.Runs()
	want := []store.Run{{Phase: store.Active, Network: n, Persistent: true, Host: []byte("{}")}}
	if diff := cmp.Diff(want, runs, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("run-state (%v) (-want +got):\n%s", err, diff)
	}
	ports, _, err := s.Ports()
	if diff := cmp.Diff([]store.Port{p}, ports); diff != "" || err != nil {
		t.Errorf("ports (%v) (-want +got):\n%s", err, diff)
	}
	if err := errors.Join(s.DeleteRun(n.UUID), s.DeleteRun(n.UUID), s.DeletePort(uuid)); err != nil {
		t.Fatal(err)
	}
	runs, _, _ = s.Runs()
	ports, _, _ = s.Ports()
	if len(runs)+len(ports) != 0 {
		t.Errorf("after deleting: %v, %v", runs, ports)
	}
}

// TestRecorded saves after run-state was listed: who works by the list does not take for
// gone what came meanwhile.
func TestRecorded(t *testing.T) {
	s := open(t, dirsIn(t.TempDir()))
	defer closed(t, s)
	onDisk, err := s.Recorded()
	if err != nil {
		t.Fatal(err)
	}
	n := parse(t, "<network><name>n</name><uuid>"+uuid+"</uuid><bridge name='b1'/></network>")
	has := func() [2]bool { return [2]bool{onDisk.HasNetwork(uuid), onDisk.HasPort(uuid)} }
	if has() != [2]bool{} {
		t.Errorf("network, port are there before they are saved: %v", has())
	}
	if err := errors.Join(s.SaveRun(store.Run{Phase: store.Active, Network: n}), s.SavePort(store.Port{UUID: uuid, Network: uuid})); err != nil {
		t.Fatal(err)
	}
	if has() != [2]bool{true, true} {
		t.Errorf("network, port are there: %v, want both", has())
	}
}

// A copy of what a network is outlives run-state, and one that is damaged, or another
// network's, is none.
func TestLiveCopy(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	n := parse(t, "<network><name>one</name><uuid>"+uuid+"</uuid><ip address='192.0.2.1' prefix='24'/></network>")
	if _, err := s.Copies().Read(uuid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("before it was kept: %v", err)
	}
	if err := errors.Join(s.Copies().Drop(uuid), s.Copies().Save(n)); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if err := os.RemoveAll(dirs.Run); err != nil {
		t.Fatal(err)
	}
	s = open(t, dirs)
	defer closed(t, s)
	if got, err := s.Copies().Read(uuid); err != nil || string(got.XML()) != string(n.XML()) {
		t.Errorf("the copy is %v, %v", got, err)
	}
	path := filepath.Join(dirs.State, "live", uuid+".xml")
	for what, text := range map[string]string{
		"cut off":           string(n.XML())[:40],
		"another network's": strings.Replace(string(n.XML()), uuid[:8], "50b7c068", 1),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Copies().Read(uuid); err == nil || errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	if err := errors.Join(s.Copies().Drop(uuid), s.Copies().Drop(uuid)); err != nil {
		t.Error(err)
	}
	if _, err := s.Copies().Read(uuid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after it was dropped: %v", err)
	}
}

func TestOnlyOneStore(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	_, err := store.Open(dirs, slog.New(slog.DiscardHandler))
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second Open: %v, want ErrLocked with the first one's pid", err)
	}
	closed(t, s)
	closed(t, open(t, dirs))
}

func lease(last byte, name string) dhcpd.Lease {
	return dhcpd.Lease{
		Addr: netip.AddrFrom4([4]byte{192, 0, 2, last}), MAC: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, last},
		Hostname: name, Expiry: time.Unix(1800000000, 0).UTC(), State: dhcpd.StateBound,
	}
}

func TestLeasesSurvive(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	ls, other := s.Leases(uuid), s.Leases("11111111-2222-3333-4444-555555555555")
	a, b, c := lease(10, "a"), lease(11, "b"), lease(10, "c")
	if err := errors.Join(
		ls.Commit([]dhcpd.Lease{a, b}, nil), other.Commit([]dhcpd.Lease{c}, nil),
		ls.Commit(nil, []netip.Addr{b.Addr}),
	); err != nil {
		t.Fatal(err)
	}
	closed(t, s)
	if err := ls.Commit([]dhcpd.Lease{b}, nil); err == nil {
		t.Error("a commit after Close was acknowledged")
	}
	s = open(t, dirs)
	defer closed(t, s)
	got, err := s.Leases(uuid).Load()
	if diff := cmp.Diff([]dhcpd.Lease{a}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("leases (%v) (-want +got):\n%s", err, diff)
	}
	if err := errors.Join(s.DropLeases(uuid), s.DropLeases(uuid)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Leases(uuid).Load(); len(got) != 0 || err != nil {
		t.Errorf("after DropLeases: %v, %v", got, err)
	}
	if got, _ := s.Leases("11111111-2222-3333-4444-555555555555").Load(); len(got) != 1 {
		t.Errorf("another network's leases after DropLeases: %v", got)
	}
}

// TestSweepLeases forgets what has ended of networks that are gone, from the journal
// and from the database, and nothing else.
func TestSweepLeases(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	ended, running := lease(10, "ended"), lease(11, "running")
	ended.Expiry = time.Now().Add(-time.Minute)
	running.Expiry = time.Now().Add(time.Hour)
	released := lease(12, "released")
	released.State = dhcpd.StateReleased
	networks := []string{uuid, otherUUID, strings.Replace(uuid, "4", "5", 1)}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range networks {
		must(s.Leases(n).Commit([]dhcpd.Lease{ended, released}, nil))
	}
	must(s.Leases(otherUUID).Commit([]dhcpd.Lease{running}, nil))
	known := func(n string) bool { return n == uuid }
	check := func(where string) {
		t.Helper()
		for n, want := range map[string]int{uuid: 2, otherUUID: 1, networks[2]: 0} {
			if got, err := s.Leases(n).Load(); len(got) != want || err != nil {
				t.Errorf("%s: network %s has %v (%v), want %d", where, n, got, err, want)
			}
		}
	}
	must(s.SweepLeases(known))
	check("in the journal")
	for _, n := range networks[1:] {
		must(s.Leases(n).Commit([]dhcpd.Lease{ended, released}, nil))
	}
	closed(t, s)
	s = open(t, dirs)
	must(s.SweepLeases(known))
	must(s.SweepLeases(known))
	check("in the database")
	closed(t, s)
	s = open(t, dirs)
	defer closed(t, s)
	check("on disk")
}

// TestAcknowledgedCommitsSurviveKill kills a process that commits as fast as it
// can, and finds every lease that it had reported as committed.
func TestAcknowledgedCommitsSurviveKill(t *testing.T) {
	root := os.Getenv("VNETD_STORE_WRITER")
	if root != "" {
		writeUntilKilled(t, root)
		return
	}
	root = t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAcknowledgedCommitsSurviveKill$")
	cmd.Env = append(os.Environ(), "VNETD_STORE_WRITER="+root)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var acked []string
	buf := make([]byte, 5)
	for len(acked) < 200 {
		if _, err := out.Read(buf); err != nil {
			t.Fatalf("the writer ended early: %v", err)
		}
		acked = append(acked, strings.TrimSpace(string(buf)))
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	s := open(t, dirsIn(root))
	defer closed(t, s)
	leases, err := s.Leases(uuid).Load()
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]bool)
	for _, l := range leases {
		there[l.Hostname] = true
	}
	for _, name := range acked {
		if !there[name] {
			t.Errorf("lease %s was acknowledged and is lost", name)
		}
	}
}

// writeUntilKilled prints the name of each lease, four characters and a line
// feed, once it is committed.
func writeUntilKilled(t *testing.T, root string) {
	s := open(t, dirsIn(root))
	ls := s.Leases(uuid)
	for i := range 10000 {
		l := lease(0, fmt.Sprintf("%04d", i))
		l.Addr = netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)})
		if err := ls.Commit([]dhcpd.Lease{l}, nil); err != nil {
			t.Fatal(err)
		}
		fmt.Println(l.Hostname)
	}
}

func TestCommitsOfManyNetworks(t *testing.T) {
	s := open(t, dirsIn(t.TempDir()))
	defer closed(t, s)
	var wg sync.WaitGroup
	for n := range 8 {
		ls := s.Leases(fmt.Sprintf("%08d-0000-0000-0000-000000000000", n))
		wg.Go(func() {
			for i := range byte(20) {
				if err := ls.Commit([]dhcpd.Lease{lease(i, "")}, nil); err != nil {
					t.Error(err)
				}
			}
			if got, err := ls.Load(); len(got) != 20 || err != nil {
				t.Errorf("network %d has %d leases (%v), want 20", n, len(got), err)
			}
		})
	}
	wg.Wait()
}

// That libvirt's networks were imported is known for good.
func TestImported(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	if s.Imported() {
		t.Error("before it was said")
	}
	if err := s.SetImported(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, dirs); !s.Imported() {
		t.Error("it is forgotten")
	}
}

// TestRemovedRunDirectories has somebody remove all of the run-state's directory while
// the store is open: it goes on, and still is the only one.
func TestRemovedRunDirectories(t *testing.T) {
	dirs := dirsIn(t.TempDir())
	s := open(t, dirs)
	defer closed(t, s)
	if err := os.RemoveAll(dirs.Run); err != nil {
		t.Fatal(err)
	}
	n := parse(t, `<network><name>one</name><uuid>`+uuid+`</uuid></network>`)
	if err := errors.Join(s.DeleteRun(uuid), s.SaveRun(store.Run{Phase: store.Active, Network: n}), s.Stops().Set(uuid, n), s.KeepLock()); err != nil {
		t.Error(err)
	}
	if r, err := s.Run(uuid); err != nil || r.Network.Name != "one" {
		t.Errorf("run-state is %v, %v", r, err)
	}
	if err := errors.Join(s.Leases(uuid).Commit([]dhcpd.Lease{lease(1, "one")}, nil), os.RemoveAll(filepath.Join(dirs.State, "leases")), s.KeepLeases()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dirs.State, "leases", "journal")); err != nil {
		t.Errorf("leases are not written anew: %v", err)
	}
	if _, err := store.Open(dirs, slog.New(slog.DiscardHandler)); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second store: %v, want %v", err, store.ErrLocked)
	}
}
