package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

func TestErrorKinds(t *testing.T) {
	const bus = "org.freedesktop.DBus.Error."
	tests := []struct {
		name string
		want *client.Error
	}{
		{"NotFound", &client.Error{Kind: api.NotFound, Message: "no"}},
		{"Exists", &client.Error{Kind: api.Exists, Message: "no"}},
		{"Invalid", &client.Error{Kind: api.Invalid, Message: "no"}},
		{"InvalidState", &client.Error{Kind: api.InvalidState, Message: "no"}},
		{"Conflict", &client.Error{Kind: api.Conflict, Message: "no"}},
		{"Busy", &client.Error{Kind: api.Busy, Message: "no"}},
		{"Denied", &client.Error{Kind: api.Denied, Message: "no"}},
		{"LimitExceeded", &client.Error{Kind: api.LimitExceeded, Message: "no"}},
		{"Unsupported", &client.Error{Kind: api.Unsupported, Message: "no"}},
		{"Internal", &client.Error{Kind: api.Internal, Message: "no"}},
		{"FromTheFuture", &client.Error{Kind: "FromTheFuture", Message: "no"}},
		{bus + "AccessDenied", &client.Error{Kind: api.Denied, Message: "access denied: no"}},
		{bus + "UnknownObject", &client.Error{Kind: api.NotFound, Message: "no"}},
		{bus + "UnknownMethod", &client.Error{Kind: api.Unsupported, Message: "this vnetd cannot do that: no"}},
		{bus + "InvalidArgs", &client.Error{Kind: api.Invalid, Message: "no"}},
		{bus + "NoReply", &client.Error{Kind: api.NotRunning, Message: "vnetd went away before it answered"}},
		{bus + "NameHasNoOwner", &client.Error{Kind: api.NotRunning, Message: "vnetd is not running"}},
		{bus + "LimitsExceeded", &client.Error{Kind: api.LimitExceeded, Message: "no"}},
		{"org.example.Odd", &client.Error{Kind: api.Internal, Message: "no"}},
	}
	s, c := labServer(t)
	for _, test := range tests {
		s.Fail("Start", test.name, "no")
		err := c.Network("lab").Start(t.Context())
		var got *client.Error
		if !errors.As(err, &got) {
			t.Errorf("%s: %v is not an *Error", test.name, err)
			continue
		}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
		if !errors.Is(err, test.want.Kind) {
			t.Errorf("%s: errors.Is does not know the kind", test.name)
		}
	}
}

// TestErrorOfLookup has the look-up of the network fail, not the method.
func TestErrorOfLookup(t *testing.T) {
	_, c := labServer(t)
	want := &client.Error{Kind: api.NotFound, Message: `no network is named "none"`}
	var got *client.Error
	if err := c.Network("none").Start(t.Context()); !errors.As(err, &got) {
		t.Fatalf("error %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestNotRunning(t *testing.T) {
	s, c := labServer(t)
	if err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	_, err := c.Networks(t.Context())
	if !errors.Is(err, api.NotRunning) || err.Error() != "vnetd is not running" {
		t.Errorf("no service: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Networks(t.Context()); !errors.Is(err, api.NotRunning) {
		t.Errorf("lost bus: %v", err)
	}
	if c, err := client.Dial(t.Context()); !errors.Is(err, api.NotRunning) {
		t.Errorf("no bus: %v, %v", c, err)
	}
}

func TestDialCancelled(t *testing.T) {
	labServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if c, err := client.Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v, want context.Canceled", c, err)
	}
}

// TestContextAfterDial checks that the context of Dial is of no meaning later.
func TestContextAfterDial(t *testing.T) {
	labServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := must(client.Dial(ctx, client.Interactive()))(t)
	cancel()
	if _, err := c.Networks(t.Context()); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestCallTimeout(t *testing.T) {
	s, c := labServer(t)
	defer s.Hold("Stop")()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := c.Network("lab").Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want context.DeadlineExceeded", err)
	}
}

// TestInteractive checks that the flag that allows a question for a password is
// on the wire, of a client that asked for it alone.
func TestInteractive(t *testing.T) {
	s, quiet := labServer(t)
	if err := s.Leave(); err != nil {
		t.Fatal(err)
	}
	calls := make(chan dbus.Flags, 2)
	conn, err := dbus.Connect(s.Address, dbus.WithIncomingInterceptor(func(msg *dbus.Message) {
		if msg.Type == dbus.TypeMethodCall {
			calls <- msg.Flags
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.RequestName("org.vnetd1", dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	asking, err := client.Dial(t.Context(), client.Interactive())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = asking.Close() })
	for c, want := range map[*client.Client]dbus.Flags{quiet: 0, asking: dbus.FlagAllowInteractiveAuthorization} {
		if err := c.Reload(t.Context()); err == nil {
			t.Error("a call of nobody's method succeeded")
		}
		if got := <-calls; got != want {
			t.Errorf("flags %#x, want %#x", got, want)
		}
	}
}
