// Package tc has the kernel hold traffic to a rate: what leaves a device, what comes in
// from it, and what of a device's traffic one guest can count on.
//
// A Config is intent; plan turns it into trees of classes, and Shaper.Compare those into
// what differs in the kernel, with the way to mend it. Nothing else is kept: the kernel
// has all state, and what this package makes is known there by its handle, its chain's
// table or its name. What others have set up on a device stays, but for its root qdisc.
//
// What leaves a device waits in classes of HTB, each with the fairest queue that the
// kernel has. What comes in from it has passed its guard by then: the last chain of
// nftables at the device's ingress sends it to an IFB device of its own, with classes of
// HTB again, from which it goes on where it was. A redirection by tc would come ahead of
// nftables, and past the guard.
package tc

import (
	"errors"
	"fmt"
	"net"
	"slices"
)

// Rate is how fast traffic may go.
type Rate struct {
	Average uint64 // bytes a second in the long run; not 0
	// Peak is how fast what was saved may go, in bytes a second; 0 for Average.
	Peak uint64
	// Burst is how much can be saved, in bytes; 0 for as little as Average takes.
	Burst uint64
}

// Floor is what one guest can count on of what leaves a device.
type Floor struct {
	// Class is the minor number of its class, from MinFloorClass to MaxFloorClass.
	Class uint16
	MAC   net.HardwareAddr // of the guest
	Rate  uint64           // bytes a second; not 0
}

// The classes of floors, as libvirt numbers them: the first two are the device's own.
const (
	MinFloorClass = 3
	MaxFloorClass = 0x3fff
)

// Config is how the traffic of a device shall be held. The zero value is not at all.
type Config struct {
	Egress  *Rate // what leaves the device: what guests receive by it; nil for as much as comes
	Ingress *Rate // what comes in from it; nil for as much as comes
	// Floors are guarantees within Egress, which must be there for them.
	Floors []Floor
	// Shared has the device be one for many guests, whose Floors come and go.
	Shared bool
}

// validate refuses what the kernel would misunderstand.
func (c *Config) validate() error {
	for _, r := range []*Rate{c.Egress, c.Ingress} {
		if r != nil && r.Average == 0 {
			return errors.New("a rate of 0 bytes a second")
		}
	}
	if len(c.Floors) > 0 && (c.Egress == nil || !c.Shared) {
		return errors.New("floors on a device without a rate to share")
	}
	for i, f := range c.Floors {
		switch {
		case f.Rate == 0 || len(f.MAC) != 6:
			return fmt.Errorf("floor of %d bytes a second for address %q", f.Rate, f.MAC)
		case f.Class < MinFloorClass || f.Class > MaxFloorClass:
			return fmt.Errorf("class %d of a floor, want %d to %d", f.Class, MinFloorClass, MaxFloorClass)
		case slices.ContainsFunc(c.Floors[:i], func(g Floor) bool { return g.Class == f.Class }):
			return fmt.Errorf("class %d of two floors", f.Class)
		}
	}
	return nil
}
