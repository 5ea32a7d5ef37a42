package client_test

import (
	"errors"
	"testing"

	"github.com/vnetd/vnetd/pkg/client"
)

// TestNames checks that a launcher needs no other package for what it compares.
func TestNames(t *testing.T) {
	_, c := labServer(t)
	if err := c.Network("none").Start(t.Context()); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	n, err := c.Network("lab").Get(t.Context())
	if err != nil || n.State != client.StateActive && n.State != client.StateInactive {
		t.Errorf("state %v (%v)", n.State, err)
	}
	port, err := c.RequestPort(t.Context(), "lab", client.PortOptions{Lifetime: client.LifetimeFD})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = port.Close() })
	info, err := port.Get(t.Context())
	if err != nil || info.Lifetime != client.LifetimeFD {
		t.Errorf("lifetime %v (%v)", info.Lifetime, err)
	}
}
