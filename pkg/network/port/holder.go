package port

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"golang.org/x/time/rate"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/store"
	"github.com/vnetd/vnetd/pkg/tap"
)

// ErrSpoiled says that whoever has a port's device open has made of it what the port
// is not, and what nobody else can take back.
var ErrSpoiled = errors.New("its holder has changed its device")

// How often an address is given back: now and then other programs set one, udev among
// them, but not again and again.
const (
	restoresAtOnce    = 5
	restoresPerSecond = 0.1
)

func newRestores() *rate.Limiter { return rate.NewLimiter(restoresPerSecond, restoresAtOnce) }

// CheckDevice compares the device of p, of kind Own, with what p is: whose it is, how
// long it stays and how many queues it has is not for its holder to say. An address of
// the host's side that is not p's is set to that again. The error is ErrSpoiled where
// the port must end.
func (p *Port) CheckDevice(log *slog.Logger) error {
	s := p.Status()
	is, err := tap.Look(s.Index)
	if errors.Is(err, tap.ErrGone) {
		return nil // which is told of, too
	}
	if err != nil {
		return err
	}
	if p.OnMacvtap() {
		return p.checkMacvtap(log, is)
	}
	persistent := p.Lifetime != api.LifetimeFD
	switch {
	case is.Owner != int64(p.Owner):
		return fmt.Errorf("%w: the device's owner is %d, not %d", ErrSpoiled, is.Owner, p.Owner)
	case is.Group != -1:
		return fmt.Errorf("%w: the device is open to the group %d", ErrSpoiled, is.Group)
	case is.Persistent != persistent:
		return fmt.Errorf("%w: whether the device stays when it is closed is now %v, not %v", ErrSpoiled, is.Persistent, persistent)
	case is.Queues > max(p.Queues, 1):
		return fmt.Errorf("%w: the device has %d queues, not %d", ErrSpoiled, is.Queues, max(p.Queues, 1))
	}
	return p.restoreMAC(log, s, is.MAC, tap.HostMAC(p.MAC))
}

// checkMacvtap is CheckDevice for a macvtap device, whose holder can set its address alone.
func (p *Port) checkMacvtap(log *slog.Logger, is tap.State) error {
	return p.restoreMAC(log, p.Status(), is.MAC, p.CardAddr())
}

// restoreMAC gives p's device its address again, nil for any, as often as that may be
// needed.
func (p *Port) restoreMAC(log *slog.Logger, s Status, is, mac net.HardwareAddr) error {
	if mac == nil || bytes.Equal(is, mac) {
		return nil
	}
	if !p.restores.Allow() {
		return fmt.Errorf("%w: the device's address is set again and again, now to %v", ErrSpoiled, is)
	}
	log.Warn("setting the address of a port's device again, which somebody has changed",
		"port", p.UUID, "ifname", s.IfName, "to", mac.String(), "from", is.String())
	return tap.SetMAC(s.Index, mac)
}

// closed reports whether a macvtap device was to go with its last descriptor, and that is
// closed. What can't be found out is taken not to be so.
func closed(s store.Port) bool {
	if s.Mode == "" || s.Lifetime != api.LifetimeFD {
		return false
	}
	held, err := tap.Held(s.Lock)
	return err == nil && !held
}

// Closed reports whether p, of vnetd's own, ends with its last descriptor, which is closed:
// a TAP device goes by itself, a macvtap device is to be deleted.
func (p *Port) Closed() bool { return closed(p.Record()) }
