// Package limit has devices of networks and ports be held to their bandwidth, and says
// what of it differs, as of everything else that is kept. What a bandwidth is of a device,
// package translate says; how the kernel keeps to it, package tc.
package limit

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/tc"
)

// Kernel is what a Keeper asks of pkg/bridge/tc; *tc.Shaper is the real one, whose
// contracts hold.
type Kernel interface {
	Compare(index int, name string, cfg tc.Config) ([]tc.Change, error)
	Clear(index int) error
	Reset(index int) error
	Unfill(index int) error
	Sweep(all bool) error
}

// Keeper keeps devices at their bandwidth. Its methods may be called concurrently, but
// Keep for one device at a time.
type Keeper struct {
	kernel Kernel

	mu   sync.Mutex
	held map[int]bool // devices of which something is kept beside them, see End
}

// NewKeeper is of no device yet. It does nothing with a nil kernel.
func NewKeeper(kernel Kernel) *Keeper { return &Keeper{kernel: kernel, held: make(map[int]bool)} }

// Keep has the device with that ifindex and name be held to cfg, as far as amend allows.
// The error is Unsupported, and names what the kernel lacks, where that can't be.
func (k *Keeper) Keep(index int, name string, cfg tc.Config, amend bridge.Amend) error {
	if k.kernel == nil {
		return nil
	}
	if cfg.Ingress != nil {
		k.hold(index, true)
	}
	changes, err := k.kernel.Compare(index, name, cfg)
	if err != nil {
		return fmt.Errorf("bandwidth of %q: %w", name, err)
	}
	for _, c := range changes {
		d := bridge.Difference{Link: name, Aspect: bridge.AspectBandwidth, Has: c.Has, Want: c.Want}
		if amend != nil && !amend(d) {
			continue
		}
		if err := c.Mend(); err != nil {
			return refused(d, err)
		}
	}
	return nil
}

// refused is the error of a bandwidth that the kernel does not keep to.
func refused(d bridge.Difference, err error) error {
	if errors.Is(err, tc.ErrLacking) {
		return api.Errorf(api.Unsupported, "bandwidth of %q can't be kept (%s): %w", d.Link, d.Want, err)
	}
	return fmt.Errorf("bandwidth of %q, %s: %w", d.Link, d.Want, err)
}

// hold remembers whether something of the device is to be cleared at its end.
func (k *Keeper) hold(index int, held bool) (was bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	was = k.held[index]
	if held {
		k.held[index] = true
	} else {
		delete(k.held, index)
	}
	return was
}

// End clears what is kept beside a device that is gone, or will be.
func (k *Keeper) End(index int) error {
	if k.kernel == nil || !k.hold(index, false) {
		return nil
	}
	err := k.kernel.Clear(index)
	if err != nil {
		k.hold(index, true)
		return fmt.Errorf("bandwidth of device %d: %w", index, err)
	}
	return nil
}

// Reset takes away how another program holds the device with that ifindex; Keep is to
// follow.
func (k *Keeper) Reset(index int) error {
	if k.kernel == nil {
		return nil
	}
	return k.kernel.Reset(index)
}

// Unfill takes away what libvirt has for checksums on the bridge with that ifindex, which it
// holds to no bandwidth.
func (k *Keeper) Unfill(index int) error {
	if k.kernel == nil {
		return nil
	}
	return k.kernel.Unfill(index)
}

// Sweep clears what is left of devices that are gone, or, with all, of any.
func (k *Keeper) Sweep(all bool) error {
	if k.kernel == nil {
		return nil
	}
	return k.kernel.Sweep(all)
}
