package client_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

const labXML = `<network>
  <name>lab</name>
  <uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid>
  <bridge name='virbr7'/>
  <ip address='192.0.2.1' prefix='24'/>
</network>
`

const webXML = `<network>
  <name>web</name>
  <uuid>0a9a3ad6-5a0f-4c52-a0f0-27e5d3c5b6f2</uuid>
  <forward mode='route'/>
  <bridge name='virbr8'/>
</network>
`

// dial connects to the bus of the environment and closes with the test.
func dial(t *testing.T) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return c
}

// must fails the test on an error and returns the value.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// labServer has the network lab, active.
func labServer(t *testing.T) (*clienttest.Server, *client.Client) {
	t.Helper()
	s, c := clienttest.New(t), dial(t)
	must(c.DefineNetwork(t.Context(), labXML, api.DefineOptions{}))(t)
	if err := c.Network("lab").Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestNetworks(t *testing.T) {
	_, c := labServer(t)
	ctx := t.Context()
	web := must(c.CreateNetwork(ctx, webXML))(t)
	if err := c.Network("lab").SetAutostart(ctx, true); err != nil {
		t.Fatal(err)
	}
	lab := api.Network{
		Name: "lab", UUID: "6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11",
		Active: true, Persistent: true, Autostart: true, Bridge: "virbr7", Mode: "none", State: api.Active,
	}
	if diff := cmp.Diff([]api.Network{lab, web}, must(c.Networks(ctx))(t)); diff != "" {
		t.Errorf("networks (-want +got):\n%s", diff)
	}
	for _, name := range []string{"lab", lab.UUID} {
		if diff := cmp.Diff(lab, must(c.Network(name).Get(ctx))(t)); diff != "" {
			t.Errorf("network %s (-want +got):\n%s", name, diff)
		}
	}
	if diff := cmp.Diff(labXML, must(c.Network("lab").XML(ctx, true))(t)); diff != "" {
		t.Errorf("XML (-want +got):\n%s", diff)
	}
}

func TestNetworkEnd(t *testing.T) {
	_, c := labServer(t)
	ctx := t.Context()
	must(c.CreateNetwork(ctx, webXML))(t)
	if err := c.Network("lab").Undefine(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Network("lab").XML(ctx, true); !errors.Is(err, api.InvalidState) {
		t.Errorf("inactive XML of a transient network: %v, want InvalidState", err)
	}
	for _, name := range []string{"lab", "web"} {
		if err := c.Network(name).Stop(ctx); err != nil {
			t.Errorf("stop %s: %v", name, err)
		}
	}
	if got := must(c.Networks(ctx))(t); len(got) != 0 {
		t.Errorf("networks at the end: %v", got)
	}
}

func TestManager(t *testing.T) {
	s, c := labServer(t)
	ctx := t.Context()
	if got := must(c.Version(ctx))(t); got != clienttest.Version {
		t.Errorf("version %q", got)
	}
	if err := c.Reload(ctx); err != nil || s.Reloads() != 1 {
		t.Errorf("Reload: %v, %d reloads", err, s.Reloads())
	}
	if got := string(must(c.Describe(ctx))(t)); !strings.Contains(got, `"networks":[{`) {
		t.Errorf("description %s", got)
	}
	s.SetConditions(clienttest.Condition{Kind: "drop-rule", Severity: "error", Networks: []string{"lab"}, Since: "2026-03-01T10:00:00Z"})
	status := must(c.Status(ctx))(t)
	if status.Version != clienttest.Version || len(status.Networks) != 1 || len(status.Conditions) != 1 ||
		status.Networks[0].Conditions[0].Severity != api.SeverityError {
		t.Errorf("status %+v", status)
	}
	if got := string(must(c.Network("lab").Describe(ctx))(t)); !strings.Contains(got, `"name":"lab"`) {
		t.Errorf("network's description %s", got)
	}
}

func TestLeases(t *testing.T) {
	s, c := labServer(t)
	s.SetLeases("lab",
		clienttest.Lease{
			Interface: "virbr7", Expiry: 1700000000, MAC: "00:00:5e:00:53:01",
			Address: "192.0.2.10", Prefix: 24, Hostname: "one", ClientID: "01:00:00:5e:00:53:01",
		},
		clienttest.Lease{Interface: "virbr7", Type: 1, IAID: "7", Address: "2001:db8::10", Prefix: 64, ClientID: "00:01"},
	)
	expiry := time.Unix(1700000000, 0)
	want := []api.Lease{
		{
			Interface: "virbr7", Expiry: &expiry, MAC: "00:00:5e:00:53:01",
			Address: netip.MustParseAddr("192.0.2.10"), Prefix: 24, Hostname: "one", ClientID: "01:00:00:5e:00:53:01",
		},
		{Interface: "virbr7", IAID: "7", Address: netip.MustParseAddr("2001:db8::10"), Prefix: 64, ClientID: "00:01"},
	}
	got := must(c.Network("lab").Leases(t.Context()))(t)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("leases (-want +got):\n%s", diff)
	}
}

func TestLeasesBadReply(t *testing.T) {
	s, c := labServer(t)
	for _, lease := range []clienttest.Lease{
		{Address: "192.0.2"},
		{Address: "192.0.2.1", Prefix: 33},
		{Address: "192.0.2.1", Prefix: 1 << 31},
		{Address: "192.0.2.1", MAC: "x"},
	} {
		s.SetLeases("lab", lease)
		if got, err := c.Network("lab").Leases(t.Context()); !errors.Is(err, api.Internal) {
			t.Errorf("%+v: %v, %v, want Internal", lease, got, err)
		}
	}
}

func TestRegisterPort(t *testing.T) {
	_, c := labServer(t)
	ctx := t.Context()
	const uuid = "0e1c9f52-77a4-4c0b-9d59-6a1f0f1d2c3c"
	const doc = "<networkport><uuid>" + uuid + "</uuid><owner><name>web</name></owner><mac address='00:00:5e:00:53:09'/></networkport>"
	if full := must(c.Network("lab").RegisterPort(ctx, doc))(t); !strings.Contains(full, "<plug type='network' bridge='virbr7'/>") {
		t.Errorf("the document is %s", full)
	}
	if _, err := c.Network("lab").RegisterPort(ctx, doc); !errors.Is(err, api.Exists) {
		t.Errorf("a second time: %v, want %v", err, api.Exists)
	}
	port := must(c.Port(uuid).Get(ctx))(t)
	if port.Name != "web" || port.Lifetime != api.LifetimeExternal || port.Network != "lab" {
		t.Errorf("the port is %+v", port)
	}
	if err := c.Port(uuid).Release(ctx); err != nil {
		t.Error(err)
	}
}

func TestPort(t *testing.T) {
	s, c := labServer(t)
	ctx := t.Context()
	port := must(c.RequestPort(ctx, "virbr7", client.PortOptions{
		Name: "one", Aliases: []string{"www", "db"}, MAC: net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 9}, IfName: "tap9",
		Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.9")}, Queues: 2, VnetHdr: true, Isolated: true,
		ID: "vm/0", Lifetime: api.LifetimeFD, OwnerUUID: "00000000-0000-4000-8000-0000000000ff",
	}))(t)
	wantRequest := []map[string]any{{
		"network": "virbr7", "name": "one", "aliases": []string{"www", "db"}, "mac": "00:00:5e:00:53:09", "ifname": "tap9", "address": []string{"192.0.2.9"},
		"queues": uint32(2), "vnet_hdr": true, "isolated": true, "id": "vm/0", "lifetime": "fd",
		"owner_uuid": "00000000-0000-4000-8000-0000000000ff",
	}}
	if diff := cmp.Diff(wantRequest, s.Requests()); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	want := api.Port{
		UUID: port.Info.UUID, Network: "lab", MAC: "00:00:5e:00:53:09",
		IfName: "tap9", Bridge: "virbr7", HostReach: true, MTU: 1500,
	}
	if diff := cmp.Diff(want, port.Info); diff != "" {
		t.Errorf("info (-want +got):\n%s", diff)
	}
	want.Aliases = []string{"www", "db"}
	want.Name, want.Lifetime, want.Owner = "one", api.LifetimeFD, clienttest.Owner
	want.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	want.Reserved, want.Queues, want.Isolated = want.Addresses, 2, true
	want.ID, want.OwnerUUID = "vm/0", "00000000-0000-4000-8000-0000000000ff"
	equate := cmpopts.EquateComparable(netip.Addr{})
	if diff := cmp.Diff([]api.Port{want}, must(c.Ports(ctx))(t), equate); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, must(c.Port(want.UUID).Get(ctx))(t), equate); diff != "" {
		t.Errorf("port (-want +got):\n%s", diff)
	}
	checkFiles(t, s, port)
	if err := c.Port(want.UUID).Release(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Port(want.UUID).Get(ctx); !errors.Is(err, api.NotFound) {
		t.Errorf("released port: %v, want NotFound", err)
	}
	if n := openFiles(t, "tap9"); n != 0 {
		t.Errorf("%d files of the port are still open", n)
	}
}

// checkFiles checks that the port has two files, the first of them the one that
// the server sent, and closes them.
func checkFiles(t *testing.T, s *clienttest.Server, port *client.OpenPort) {
	t.Helper()
	if len(port.Files) != 2 {
		t.Fatalf("%d files, want 2", len(port.Files))
	}
	sent, got := must(s.PortFile("tap9").Stat())(t), must(port.Files[0].Stat())(t)
	if !os.SameFile(sent, got) {
		t.Error("the first file is not the one that was sent")
	}
	for _, file := range port.Files {
		flags := must(unix.FcntlInt(file.Fd(), unix.F_GETFD, 0))(t)
		if flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s is inherited on exec", file.Name())
		}
	}
	if err := port.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestRequestPortCancelled(t *testing.T) {
	s, c := labServer(t)
	release := s.Hold("RequestPort")
	ctx, cancel := context.WithCancel(t.Context())
	errC := make(chan error, 1)
	go func() {
		_, err := c.RequestPort(ctx, "lab", client.PortOptions{IfName: "late0"})
		errC <- err
	}()
	eventually(t, "the request", func() bool { return len(s.Requests()) == 1 })
	cancel()
	if err := <-errC; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	release()
	eventually(t, "the late port", func() bool { return s.PortFile("late0") != nil })
	// The server's own copy stays.
	eventually(t, "the late file to be closed", func() bool { return openFiles(t, "late0") == 1 })

	if _, err := c.RequestPort(ctx, "lab", client.PortOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error with an ended context %v, want context.Canceled", err)
	}
	if n := len(s.Requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

// TestUnwantedFDs sends a client descriptors that it did not ask for.
func TestUnwantedFDs(t *testing.T) {
	s, c := labServer(t)
	peer := must(dbus.Connect(s.Address))(t)
	defer peer.Close()
	fd := must(unix.MemfdCreate("unwanted", unix.MFD_CLOEXEC))(t)
	defer unix.Close(fd)
	for _, body := range [][]any{
		{dbus.UnixFD(fd)},
		{[]dbus.UnixFD{dbus.UnixFD(fd), dbus.UnixFD(fd)}},
	} {
		call := peer.Object(clientName(t, peer, s), "/").Call("org.example.Take.It", 0, body...)
		if call.Err == nil {
			t.Error("the client answered a call")
		}
	}
	if n := openFiles(t, "unwanted"); n != 1 {
		t.Errorf("%d copies of the file are open, want only our own", n)
	}
	if _, err := c.Networks(t.Context()); err != nil {
		t.Errorf("the client does not work any more: %v", err)
	}
}

// clientName returns the unique name of the one connection on the bus that is
// neither the peer's nor the server's.
func clientName(t *testing.T, peer *dbus.Conn, s *clienttest.Server) string {
	t.Helper()
	var names []string
	if err := peer.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		t.Fatal(err)
	}
	var owner string
	if err := peer.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, "org.vnetd1").Store(&owner); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, ":") && name != owner && name != peer.Names()[0] {
			return name
		}
	}
	t.Fatalf("no client on %s among %v", s.Address, names)
	return ""
}

// openFiles counts the descriptors of this process that are the memory file
// with the name.
func openFiles(t *testing.T, name string) (count int) {
	t.Helper()
	for _, link := range must(filepath.Glob("/proc/self/fd/*"))(t) {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/memfd:"+name+" ") {
			count++
		}
	}
	return count
}

// eventually waits until ok, for half a minute at most.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
