package nft_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
	"github.com/vnetd/vnetd/pkg/firewall/nft"
)

// looks counts how often a writer says that it looks at its tables, and tells why it makes
// them anew.
type looks struct {
	t     *testing.T
	count atomic.Int64
}

func (l *looks) Enabled(context.Context, slog.Level) bool { return true }

func (l *looks) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "are looked at") {
		l.count.Add(1)
	}
	r.Attrs(func(a slog.Attr) bool {
		l.t.Log(r.Message, a)
		return true
	})
	return nil
}

func (l *looks) WithAttrs([]slog.Attr) slog.Handler { return l }

func (l *looks) WithGroup(string) slog.Handler { return l }

// tableHandle is the number of the table of networks, another one for each that is made.
func tableHandle(t *testing.T) string {
	t.Helper()
	first, _, _ := strings.Cut(nstest.Exec(t, "nft", "-a", "list", "table", "ip", "vnetd"), "\n")
	return first
}

// What is committed to other tables, of vnetd's own or of others, has the writer neither look at
// its tables nor make them anew, not even while it commits itself; what is to its own does.
func TestCommitsToOtherTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		seen := &looks{t: t}
		f := newNetworks(t, nft.Config{Logger: slog.New(seen)})
		set(t, f, numbered(0))
		handle := tableHandle(t)
		other, err := nfnetlink.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = other.Close() }()
		touch := func() {
			for _, name := range []string{firewall.GuardTable("br0"), firewall.OffloadTable, firewall.SpanTable, keep.Table, "others"} {
				p := nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: name}
				for _, m := range [][]byte{p.NewTable(0, ""), p.DeleteTable()} {
					if err := other.Commit([][]byte{m}, 0, func(int, netlink.Message) {}); err != nil {
						t.Error(err)
					}
				}
			}
		}
		for i := range 10 {
			touch()
			set(t, f, numbered(1+i))
		}
		for i := range 50 {
			var other sync.WaitGroup
			other.Go(func() { touch(); touch(); touch() })
			set(t, f, numbered(11+i))
			other.Wait()
		}
		if n := seen.count.Load(); n != 0 || tableHandle(t) != handle {
			t.Errorf("the tables were looked at %d times; they were %s, and are %s", n, handle, tableHandle(t))
		}
		nstest.Exec(t, "nft", "delete element ip vnetd outbound { \"virbr0\" }")
		set(t, f, numbered(61))
		if n := seen.count.Load(); n != 1 || tableHandle(t) == handle {
			t.Errorf("what another changed in the tables was looked at %d times, want once, and mended: %s", n, tableHandle(t))
		}
		set(t, f, numbered(62))
		if n := seen.count.Load(); n != 1 {
			t.Errorf("the tables that were made anew were looked at %d times", n-1)
		}
	})
}
