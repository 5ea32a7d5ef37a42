package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// The network that every DHCP server serves, and the guest plugged into it. It
// is large, so that no run uses it up.
const (
	bridge     = "virbr0"
	serverAddr = "10.20.0.1"
	prefix     = "/16"
	netmask    = "255.255.0.0"
	rangeStart = "10.20.1.0"
	rangeEnd   = "10.20.250.255"
	maxClients = 250 * 256 // the size of the range

	serverAddr6 = "2001:db8:20::1"
	subnet6     = "2001:db8:20::/64"

	// Of a network that has many leases, and addresses for a load beside them that lasts: two
	// ranges, since one has at most 65,536. Its server is the same.
	wideNet     = "10.20.0.0/14"
	wideMask    = "255.252.0.0"
	wideStart   = "10.21.0.0"
	wideMiddle  = "10.21.255.255"
	wideNext    = "10.22.0.0"
	wideEnd     = "10.22.253.255"
	wideStart6  = "2001:db8:20::1:0"
	wideMiddle6 = "2001:db8:20::1:ffff"
	wideNext6   = "2001:db8:20::2:0"
	wideEnd6    = "2001:db8:20::2:fdff"
	wideClients = (256 + 254) * 256 // the size of both

	guestLink = "eth0"
	guestAddr = "10.20.255.254" // perfdhcp poses as a relay and needs one
)

// startLimit is how long a server may take to start or to end. It only ends runs
// that would hang.
const startLimit = time.Minute

// subject is a DHCP server to be measured.
type subject struct {
	name string
	// start starts it on the bridge, without leases, with its state in dir. It
	// serves when start returns, until b ends.
	start func(b *bench, dir string) server
}

// server is a running subject.
type server struct {
	comm string // its program, as ps names it
	// stored ends the server without warning and counts the leases on disk; nil
	// if it keeps none.
	stored func() (int, error)
}

// begin starts s afresh, with a guest on its bridge.
func (b *bench) begin(s subject) (server, *nstest.NS) {
	dir, err := os.MkdirTemp(b.dir, "state-")
	if err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	srv := s.start(b, dir)
	guest := nstest.Guest(b, bridge, "guest", "")
	guest.IP("addr add " + guestAddr + prefix + " dev " + guestLink)
	nstest.Eventually(b, startLimit, "the guest reaches the server", func() error {
		return guest.Command(b.Context(), "ping", "-c1", "-W1", serverAddr).Run()
	})
	return srv, guest
}

// usage is what the server takes at this moment.
func (s server) usage(b *bench) usage {
	u, err := usageOf(s.comm)
	if err != nil {
		b.Fatalf("measuring %s: %w", s.comm, err)
	}
	return u
}

// gone waits until no process of comm is left.
func gone(b *bench, comm string) {
	nstest.Eventually(b, startLimit, comm+" ends", func() error {
		u, err := usageOf(comm)
		if err == nil && u.processes > 0 {
			err = fmt.Errorf("%d processes are left", u.processes)
		}
		return err
	})
}

// write makes a file.
func (b *bench) write(path, content string) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.Fatalf("making a folder: %w", err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		b.Fatalf("writing %s: %w", path, err)
	}
}

// clientMAC is the n-th client's hardware address, from the range set aside for
// local use, never twice in a run.
func clientMAC(n int) [6]byte { return [6]byte{0x02, 0, 0x5e, byte(n >> 16), byte(n >> 8), byte(n)} }
