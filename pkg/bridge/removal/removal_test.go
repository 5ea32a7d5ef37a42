package removal_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge/removal"
	"golang.org/x/sys/unix"
)

// makeLinks makes bridges and TAP devices by turns, of that name and a number, and returns
// their indices.
func makeLinks(t *testing.T, name string, count int) []int {
	t.Helper()
	var batch strings.Builder
	for n := range count {
		_, _ = fmt.Fprintf(&batch, []string{"link add %s%d type bridge\n", "tuntap add %s%d mode tap\n"}[n%2], name, n)
		_, _ = fmt.Fprintf(&batch, "link set %s%d up\n", name, n)
	}
	file := t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(batch.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	nstest.Exec(t, "ip", "-batch", file)
	indices := make([]int, count)
	for n := range indices {
		l, err := net.InterfaceByName(fmt.Sprintf("%s%d", name, n))
		if err != nil {
			t.Fatal(err)
		}
		indices[n] = l.Index
	}
	return indices
}

// deleteAll deletes links at the same time and returns what became of each.
func deleteAll(q *removal.Queue, indices []int) []error {
	errs := make([]error, len(indices))
	var all sync.WaitGroup
	for n, index := range indices {
		all.Go(func() { errs[n] = q.Delete(index, []removal.Cost{removal.Bridge, removal.Other}[n%2]) })
	}
	all.Wait()
	return errs
}

// count is how many links have a name that begins so.
func count(t *testing.T, name string) int {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, l := range links {
		if strings.HasPrefix(l.Name, name) {
			n++
		}
	}
	return n
}

// TestDeletesThoseOnly has many links deleted at once, some of which are gone already, some
// twice: others stay, of every group.
func TestDeletesThoseOnly(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		q := newQueue(t)
		ours := makeLinks(t, "ours", 40)
		makeLinks(t, "other", 4)
		nstest.IP(t, "link set other0 group 1073741824")
		nstest.IP(t, "link del ours7")
		if err := errors.Join(deleteAll(q, append(ours, ours[0], ours[1], 9999))...); err != nil {
			t.Error(err)
		}
		if n := count(t, "ours"); n != 0 {
			t.Errorf("%d links are left", n)
		}
		if n := count(t, "other"); n != 4 {
			t.Errorf("%d other links are left, want 4", n)
		}
	})
}

// TestOneThatStays has a link among others that the kernel does not delete: it alone stays,
// and whoever wanted it gone is told.
func TestOneThatStays(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		q := newQueue(t)
		indices := append(makeLinks(t, "ours", 20), 1) // lo
		for n, err := range deleteAll(q, indices) {
			if lo := indices[n] == 1; errors.Is(err, unix.EOPNOTSUPP) != lo || err != nil && !lo {
				t.Errorf("link %d: %v", indices[n], err)
			}
		}
		if n := count(t, "ours"); n != 0 {
			t.Errorf("%d links are left", n)
		}
	})
}

func newQueue(t *testing.T) *removal.Queue {
	t.Helper()
	q, err := removal.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	return q
}
