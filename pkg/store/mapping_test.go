package store_test

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/store"
)

// memory is how many bytes of addresses the process has (VmSize).
func memory(t *testing.T) uint64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmSize:")
	var kib uint64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// TestMappingRefused has the kernel refuse to map the lease database when it grows: the
// commits fail, and when there is memory again they don't, with all that was committed.
func TestMappingRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dirs := dirsIn(t.TempDir())
		s := open(t, dirs)
		leases := s.Leases(uuid)
		acknowledged := 0
		commit := func() error {
			var batch []dhcpd.Lease
			for i := range 200 {
				l := lease(1, "guest")
				n := acknowledged + i
				l.Addr = netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
				batch = append(batch, l)
			}
			err := leases.Commit(batch, nil)
			if err == nil {
				acknowledged += len(batch)
			}
			return err
		}
		for range 10 {
			if err := commit(); err != nil {
				t.Fatal(err)
			}
		}
		// A file with a hole, all of which bbolt maps when it needs more: that is
		// refused, and what the program itself takes is not.
		if err := os.Truncate(filepath.Join(dirs.State, "leases.db"), 3<<30); err != nil {
			t.Fatal(err)
		}
		limit := memory(t) + 1<<30
		var unlimited unix.Rlimit
		if err := errors.Join(unix.Getrlimit(unix.RLIMIT_AS, &unlimited), unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: limit, Max: unlimited.Max})); err != nil {
			t.Fatal(err)
		}
		var refused error
		for range 200 {
			if refused = commit(); refused != nil {
				break
			}
		}
		if err := unix.Setrlimit(unix.RLIMIT_AS, &unlimited); err != nil {
			t.Fatal(err)
		}
		if refused == nil || !strings.Contains(refused.Error(), unix.ENOMEM.Error()) { // bbolt wraps none
			t.Fatalf("%d leases, and then %v, want it to be refused for lack of memory", acknowledged, refused)
		}
		nstest.Eventually(t, 30*time.Second, "leases are stored again", commit)
		for range 2 { // the second time of what is on disk
			got, err := s.Leases(uuid).Load()
			if err != nil || len(got) != acknowledged {
				t.Errorf("%d leases (%v), want the %d that were acknowledged", len(got), err, acknowledged)
			}
			closed(t, s)
			s = open(t, dirs)
		}
		closed(t, s)
	})
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
	if err := errors.Join(s.DeleteRun(uuid), s.SaveRun(store.Run{Phase: store.Active, Network: n}), s.Stops().Set(uuid, true), s.KeepLock()); err != nil {
		t.Error(err)
	}
	if r, err := s.Run(uuid); err != nil || r.Network.Name != "one" {
		t.Errorf("run-state is %v, %v", r, err)
	}
	if _, err := store.Open(dirs, slog.New(slog.DiscardHandler)); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second store: %v, want %v", err, store.ErrLocked)
	}
}
