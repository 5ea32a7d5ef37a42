package firewalltest

import (
	"context"
	"errors"
	"testing"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// Watch has a firewall repair until the test ends.
func Watch(t testing.TB, f *firewall.Firewall) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- f.Watch(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch ended with %v", err)
		}
	})
}

// Set fails the test unless Set succeeds for each network.
func Set(t testing.TB, f *firewall.Firewall, networks ...firewall.Network) {
	t.Helper()
	for _, n := range networks {
		if err := f.Set(t.Context(), n); err != nil {
			t.Fatalf("Set of %s: %v", n.Bridge, err)
		}
	}
}

// Delete fails the test unless Delete succeeds.
func Delete(t testing.TB, f *firewall.Firewall, n firewall.Network) {
	t.Helper()
	if err := f.Delete(t.Context(), n); err != nil {
		t.Fatalf("Delete of %s: %v", n.Bridge, err)
	}
}
