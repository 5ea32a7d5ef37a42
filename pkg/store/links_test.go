package store_test

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// unprivileged is a user whom the daemon may run as.
const unprivileged = 64123

// TestLinksOfRoot reads definitions that root has linked to, as configuration management does,
// and none where the file is somebody else's, or the link is and root comes by.
func TestLinksOfRoot(t *testing.T) {
	dir := t.TempDir()
	dirs := store.Dirs{Networks: filepath.Join(dir, "networks"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state")}
	must(t, os.MkdirAll(dirs.Networks, 0o755))
	for _, n := range []struct {
		name        string
		link, owner int // uids
		relative    bool
	}{{"far", 0, 0, false}, {"near", 0, 0, true}, {"made", unprivileged, 0, false}, {"filled", 0, unprivileged, false}} {
		file, link := filepath.Join(dir, n.name+".file"), filepath.Join(dirs.Networks, n.name+".xml")
		must(t, os.WriteFile(file, []byte("<network><name>"+n.name+"</name></network>"), 0o644))
		must(t, os.Chown(file, n.owner, n.owner))
		if n.relative {
			file = "../" + n.name + ".file"
		}
		must(t, os.Symlink(file, link))
		must(t, os.Lchown(link, n.link, n.link))
	}
	must(t, os.Symlink("/dev/zero", filepath.Join(dirs.Networks, "zero.xml")))
	must(t, unix.Mkfifo(filepath.Join(dirs.Networks, "pipe.xml"), 0o644)) // for whose writer nobody waits
	for d := dir; d != "/"; d = filepath.Dir(d) {
		must(t, os.Chmod(d, 0o777))
		if filepath.Dir(d) == os.TempDir() {
			break
		}
	}
	for uid, want := range map[int][]string{0: {"far", "near"}, unprivileged: {"far", "made", "near"}} {
		var names []string
		defs, faults := definitionsAs(t, uid, dirs)
		for _, d := range defs {
			names = append(names, d.Network.Name)
		}
		if !slices.Equal(names, want) {
			t.Errorf("user %d reads %v, want %v", uid, names, want)
		}
		if len(faults) != 6-len(want) {
			t.Errorf("user %d finds the faults %v, want those of the others", uid, faults)
		}
	}
}

// definitionsAs reads definitions as a user.
func definitionsAs(t *testing.T, uid int, dirs store.Dirs) ([]store.Definition, []*store.Fault) {
	t.Helper()
	runtime.LockOSThread() // who reads is a matter of the thread
	defer runtime.UnlockOSThread()
	become := func(uid int) {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, math.MaxUint, uintptr(uid), math.MaxUint); errno != 0 {
			t.Fatal(errno)
		}
	}
	become(uid)
	defs, faults, err := store.ReadDefinitions(dirs)
	become(0)
	must(t, err)
	return defs, faults
}

// TestNoLinkLeadsOut puts links to a file and to a directory of somebody else's
// wherever the store has files, as the user can whom the daemon runs as, and finds
// both untouched whatever the store is asked, root or not.
func TestNoLinkLeadsOut(t *testing.T) {
	const precious = "precious"
	for _, place := range []string{
		"run/vnetd.pid", "run/networks", "run/ports", "run/stopped", "state/leases.db", "state/leases.journal",
		"state/leases", "state/leases/snapshot", "state/leases/journal", "state/leases/journal.next", "state/leases/journal.new", "state/leases/snapshot.new",
		"networks/autostart", "networks/one.xml", "networks/autostart/one.xml", "run/networks/" + uuid + ".json", "run/stopped/" + uuid,
		"state/libvirt-imported", "state/live", "state/live/" + uuid + ".xml",
	} {
		t.Run(place, func(t *testing.T) {
			dir := t.TempDir()
			dirs := store.Dirs{Networks: filepath.Join(dir, "networks"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state")}
			file, folder := filepath.Join(dir, "file"), filepath.Join(dir, "folder")
			must(t, os.MkdirAll(folder, 0o755))
			must(t, os.WriteFile(file, []byte(precious), 0o644))
			must(t, os.WriteFile(filepath.Join(folder, "one.xml"), []byte(precious), 0o644))
			must(t, os.WriteFile(filepath.Join(folder, ".vnetd-1.tmp"), []byte(precious), 0o644))
			link := filepath.Join(dir, place)
			must(t, os.MkdirAll(filepath.Dir(link), 0o755))
			to := file
			if filepath.Ext(place) == "" && filepath.Base(place) != uuid {
				to = folder
			}
			must(t, os.Symlink(to, link))
			must(t, os.Lchown(link, unprivileged, unprivileged))
			useAll(t, dirs)
			for _, path := range []string{file, filepath.Join(folder, "one.xml"), filepath.Join(folder, ".vnetd-1.tmp")} {
				if got, err := os.ReadFile(path); err != nil || string(got) != precious {
					t.Errorf("%s now has %.40q (%v)", path, got, err)
				}
			}
			if entries, err := os.ReadDir(folder); err != nil || len(entries) != 2 {
				t.Errorf("in somebody else's directory there is %v (%v)", entries, err)
			}
		})
	}
}

// useAll asks a store for all that it does with files; what it refuses is its
// business.
func useAll(t *testing.T, dirs store.Dirs) {
	t.Helper()
	s, err := store.Open(dirs, slog.New(slog.DiscardHandler))
	if err != nil {
		return
	}
	defer func() { must(t, s.Close()) }()
	n, err := netdef.Parse([]byte("<network><name>one</name><uuid>" + uuid + "</uuid></network>"))
	must(t, err)
	if defs, _, err := s.Definitions(); err == nil && len(defs) > 0 {
		t.Errorf("definitions %v, of another's file", defs)
	}
	_ = s.SaveDefinition(n)
	_ = s.SetAutostart("one", true)
	_ = s.SaveRun(store.Run{Phase: store.Active, Network: n})
	_ = s.SavePort(store.Port{UUID: uuid, Network: uuid, MAC: []byte{2, 0, 0, 0, 0, 1}})
	_ = s.Stops().Set(uuid, n)
	_, _ = s.Stops().Was(uuid)
	_ = s.SetImported()
	_ = s.Copies().Save(n)
	if _, err := s.Copies().Read(uuid); err == nil {
		_ = s.Copies().Drop(uuid)
	}
	_ = s.Uplinks().Save("br0", []byte("{}"))
	_, _, _ = s.Uplinks().All()
	_ = s.Uplinks().Delete("br0")
	_ = s.KeepLock()
	_, _, _ = s.Runs()
	_, _, _ = s.Ports()
	_, _ = s.Stops().All()
	_ = s.Stops().Set(uuid, nil)
	_ = s.DeletePort(uuid)
	_ = s.DeleteRun(uuid)
	_ = s.SetAutostart("one", false)
	_, _ = s.DeleteDefinition("one")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestRootLeavesNothingOfItsOwn has root open the store of another user, as vnetd --cleanup
// does, on a host where nothing has run: what it makes is that user's.
func TestRootLeavesNothingOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	dirs := store.Dirs{Networks: filepath.Join(dir, "networks"), Run: filepath.Join(dir, "run"), State: filepath.Join(dir, "state")}
	for _, base := range []string{dirs.Networks, dirs.Run, dirs.State} {
		must(t, os.Mkdir(base, 0o755))
		must(t, os.Chown(base, unprivileged, unprivileged))
	}
	s, err := store.Open(dirs, slog.New(slog.DiscardHandler))
	must(t, err)
	must(t, s.Stops().Set("6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11", new(netdef.Network)))
	must(t, s.Close())
	files := 0
	must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if path == dir || err != nil {
			return err
		}
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		files++
		if st.Uid != unprivileged || st.Gid != unprivileged {
			t.Errorf("%s is of user %d and group %d", path, st.Uid, st.Gid)
		}
		return nil
	}))
	if files < 10 {
		t.Errorf("there are %d files, want the database, the lock and directories", files)
	}
}
