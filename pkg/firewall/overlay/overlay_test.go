package overlay_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/overlay"
)

// spanning are a network that spans hosts by IPv4, one by IPv6, and one of this host alone.
func spanning() []*firewall.Network {
	addrs := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	return []*firewall.Network{
		{Bridge: "virbr7", Span: &firewall.Span{
			Device: "vx7", MAC: net.HardwareAddr{2, 'v', 'n', 0, 0, 7}, Gateways: addrs("10.50.0.1", "fd00:50::1", "fe80::76:6eff:fe00:7"),
			Peers: addrs("203.0.113.1", "203.0.113.2"), Port: 4789,
			Host: firewall.SpanHost{Link: "vh7", Addrs: addrs("10.50.1.7", "fd00:50::407:ff:fe00:1", "fe80::407:ff:fe00:1")},
		}},
		{Bridge: "virbr8", Span: &firewall.Span{
			Device: "vx8", MAC: net.HardwareAddr{2, 'v', 'n', 0, 0, 8}, Gateways: addrs("10.51.0.1"), Peers: addrs("2001:db8::1"), Port: 8472,
		}},
		{Bridge: "virbr0"},
	}
}

// list is what nft(8) says of both tables.
func list(t *testing.T) string {
	t.Helper()
	out := ""
	for _, family := range []string{"bridge", "inet"} {
		out += nstest.Exec(t, "nft", "--stateless", "list", "table", family, firewall.SpanTable)
	}
	return out
}

// TestTables makes the tables, as nft(8) reads them.
func TestTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		table := overlay.New(nil)
		if err := table.Set(slices.Values(spanning())); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, "testdata/tables.golden", list(t))
		// One that comes while they are not as they were brings back all.
		if err := table.Set(slices.Values(spanning()[:1])); err != nil {
			t.Fatal(err)
		}
		nstest.Exec(t, "nft", "delete table inet vnetd_span")
		if err := table.Set(slices.Values(spanning())); err != nil {
			t.Fatal(err)
		}
		golden.Compare(t, "testdata/tables.golden", list(t))
		// A network that goes takes what is its own, and the last one all.
		if err := table.Set(slices.Values(spanning()[1:])); err != nil {
			t.Fatal(err)
		}
		if got := list(t); strings.Contains(got, "vx7") || strings.Contains(got, "203.0.113") || !strings.Contains(got, "vx8") {
			t.Errorf("without the first network:\n%s", got)
		}
		if err := errors.Join(table.Set(slices.Values(spanning()[2:])), table.Settle()); err != nil {
			t.Fatal(err)
		}
		if left := nstest.Exec(t, "nft", "list", "tables"); left != "" {
			t.Errorf("without networks that span hosts there is left:\n%s", left)
		}
		if err := errors.Join(table.Purge(), table.Close()); err != nil {
			t.Error(err)
		}
	})
}

// TestRestart keeps what a former process left until it is known which networks there are.
func TestRestart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := overlay.New(nil).Set(slices.Values(spanning())); err != nil {
			t.Fatal(err)
		}
		was := list(t)
		table := overlay.New(nil)
		for n := range len(spanning()) {
			if err := table.Set(slices.Values(spanning()[:n])); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(was, list(t)); diff != "" {
				t.Fatalf("with %d networks known (-was +is):\n%s", n, diff)
			}
		}
		if err := errors.Join(table.Set(slices.Values(spanning()[:1])), table.Settle()); err != nil {
			t.Fatal(err)
		}
		if got := list(t); strings.Contains(got, "vx8") || !strings.Contains(got, "vx7") {
			t.Errorf("once the first network is all there is:\n%s", got)
		}
		// One that knows of none, and is told so.
		last := overlay.New(nil)
		if err := errors.Join(last.Set(slices.Values(spanning()[:0])), last.Settle()); err != nil {
			t.Fatal(err)
		}
		if left := nstest.Exec(t, "nft", "list", "tables"); left != "" {
			t.Errorf("left of a former process:\n%s", left)
		}
	})
}

// TestPutBack puts back what others remove.
func TestPutBack(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		table := overlay.New(nil)
		if err := table.Set(slices.Values(spanning())); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- table.Watch(ctx) }()
		was := list(t)
		for _, damage := range []string{
			"delete table bridge vnetd_span", "flush ruleset", "flush chain inet vnetd_span input", "delete element bridge vnetd_span links { vx7 }",
			"add element inet vnetd_span members4 { 203.0.113.66 . 4789 }", "flush set bridge vnetd_span macs",
		} {
			// The watch may not listen yet: what it missed it looks at.
			nstest.Exec(t, "nft", damage)
			nstest.Eventually(t, 30*time.Second, "the tables are back after "+damage, func() error {
				for _, family := range []string{"bridge", "inet"} {
					if !strings.Contains(nstest.Exec(t, "nft", "list", "tables", family), firewall.SpanTable) {
						return errors.New("a table is not there")
					}
				}
				if diff := cmp.Diff(was, list(t)); diff != "" {
					return errors.New(diff)
				}
				return nil
			})
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}
