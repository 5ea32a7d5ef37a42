package nstest

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"time"
)

// Lines that a guest prints by itself. The number is its uptime in seconds.
var (
	readyLine = regexp.MustCompile(`^GUEST ready`)
	linkLine  = regexp.MustCompile(`GUEST link-up (\d+\.\d+)`)
	leaseLine = regexp.MustCompile(`GUEST lease (\S+) (\d+\.\d+) event=bound server=(\S*) router=(\S*) dns=(\S*) seconds=(\d+)`)
)

// GuestLease is what a guest was given by DHCP.
type GuestLease struct {
	Address netip.Prefix
	// After is the time from the guest's link coming up to its lease, in steps
	// of 10 ms, by the guest's own clock.
	After time.Duration
	// Server, Router and DNS are addresses as the guest prints them, empty for none.
	Server, Router, DNS string
	// Duration is the lease time.
	Duration time.Duration
}

// LinkUp waits until the guest's eth0 is up and returns the guest's uptime then.
func (q *QEMU) LinkUp(ctx context.Context) (time.Duration, error) {
	match, err := q.Expect(ctx, linkLine)
	if err != nil {
		return 0, err
	}
	return uptime(match[1])
}

// Lease waits for the guest's first lease.
func (q *QEMU) Lease(ctx context.Context) (GuestLease, error) {
	up, err := q.LinkUp(ctx)
	if err != nil {
		return GuestLease{}, err
	}
	match, err := q.Expect(ctx, leaseLine)
	if err != nil {
		return GuestLease{}, err
	}
	address, err := netip.ParsePrefix(match[1])
	if err != nil {
		return GuestLease{}, fmt.Errorf("the guest's address: %w", err)
	}
	at, err := uptime(match[2])
	if err != nil {
		return GuestLease{}, err
	}
	seconds, err := strconv.Atoi(match[6])
	if err != nil {
		return GuestLease{}, fmt.Errorf("the guest's lease time: %w", err)
	}
	return GuestLease{
		Address: address, After: at - up, Server: match[3], Router: match[4], DNS: match[5],
		Duration: time.Duration(seconds) * time.Second,
	}, nil
}

// uptime reads /proc/uptime's form.
func uptime(seconds string) (time.Duration, error) {
	d, err := time.ParseDuration(seconds + "s")
	if err != nil {
		return 0, fmt.Errorf("the guest's uptime: %w", err)
	}
	return d, nil
}
