package nstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is a further network namespace beside the test's own: a guest, or a host
// on the LAN. It stands under /run/netns, so `ip -n NAME` reaches it.
type NS struct {
	Name string
	t    TB
}

// NewNS makes a network namespace with lo up, removed when the test ends.
func NewNS(t TB, name string) *NS {
	t.Helper()
	IP(t, "netns add "+name)
	t.Cleanup(func() { _ = command(context.Background(), "ip", "netns", "del", name) })
	IP(t, "-n "+name+" link set lo up")
	return &NS{Name: name, t: t}
}

// IP runs ip(8) inside the namespace.
func (n *NS) IP(args string) string {
	n.t.Helper()
	return IP(n.t, "-n "+n.Name+" "+args)
}

// Command is a program that will run inside the namespace and be killed when
// ctx ends.
func (n *NS) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Exec runs a program inside the namespace, returns its standard output and
// fails the test when it fails.
func (n *NS) Exec(name string, args ...string) string {
	n.t.Helper()
	return Exec(n.t, "ip", append([]string{"netns", "exec", n.Name, name}, args...)...)
}

// Do calls fn on a thread inside the namespace. Sockets that fn opens stay in
// the namespace and may be used from anywhere afterwards; goroutines that fn
// starts don't run in it.
func (n *NS) Do(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		// Never unlocked: the runtime ends the thread, nobody inherits its namespace.
		runtime.LockOSThread()
		done <- func() error {
			f, err := os.Open("/run/netns/" + n.Name)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("entering namespace %q: %w", n.Name, err)
			}
			return fn()
		}()
	}()
	return <-done
}

// Guest is a namespace whose eth0 is plugged into bridge, a device of the
// test's own namespace, by a veth pair. eth0 is up and has the given MAC
// address, empty for a random one, and no IP address. The pair is gone when the test's
// cleanups have run.
func Guest(t TB, bridge, name, mac string) *NS {
	t.Helper()
	n := NewNS(t, name)
	address := ""
	if mac != "" {
		address = " address " + mac
	}
	IP(t, "link add v-"+name+" type veth peer name eth0"+address+" netns "+name)
	// The kernel ends the namespace some time later, and nothing while somebody is in it.
	t.Cleanup(func() { _ = command(context.Background(), "ip", "link", "del", "v-"+name) })
	IP(t, "link set v-"+name+" master "+bridge+" up")
	n.IP("link set eth0 up")
	return n
}

// Addresses of the LAN that NewLAN makes: from the ranges set aside for
// documentation (RFC 5737, RFC 3849).
const (
	LANHost  = "203.0.113.1"
	Uplink   = "203.0.113.2"
	LANHost6 = "2001:db8:ffff::1"
	Uplink6  = "2001:db8:ffff::2"
)

// NewLAN puts a LAN behind eno1: the test's own namespace becomes a hypervisor
// with the uplink eno1 (Uplink) and a default route to the LAN host (LANHost)
// in the returned namespace, which has no route back to any guest.
func NewLAN(t TB) *NS {
	t.Helper()
	lan := NewNS(t, "lan")
	IP(t, "link add eno1 type veth peer name lan0 netns lan")
	for _, args := range []string{
		"addr add " + Uplink + "/24 dev eno1",
		"-6 addr add " + Uplink6 + "/64 dev eno1 nodad",
		"link set eno1 up",
	} {
		IP(t, args)
	}
	lan.IP("addr add " + LANHost + "/24 dev lan0")
	lan.IP("-6 addr add " + LANHost6 + "/64 dev lan0 nodad")
	lan.IP("link set lan0 up")
	IP(t, "route add default via "+LANHost)
	IP(t, "-6 route add default via "+LANHost6)
	return lan
}
