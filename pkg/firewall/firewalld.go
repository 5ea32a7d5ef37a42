package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
)

// firewalld's names on the system bus. (firewalld.dbus(5))
const (
	firewalldName     = "org.fedoraproject.FirewallD1"
	firewalldPath     = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
	firewalldZone     = firewalldName + ".zone."
	firewalldPolicies = firewalldName + ".policy.getPolicies"
)

// firewalldProcess is what the kernel calls its process.
const firewalldProcess = "firewalld"

// The zones that libvirt brings to firewalld, and the policy without which the
// one for routed networks would cut their guests off.
const (
	zoneLibvirt   = "libvirt"
	zoneRouted    = "libvirt-routed"
	policyRouted  = "libvirt-routed-out"
	firewalldTime = 20 * time.Second
)

// errNoFirewalld is the answer of a host without firewalld.
var errNoFirewalld = errors.New("firewalld is not running")

// zones puts bridges into firewalld's zones.
type zones struct {
	mu     sync.Mutex
	bus    *sysbus.Conn       // nil until it is needed; guarded by mu
	cancel context.CancelFunc // ends bus; guarded by mu
}

// bind puts the bridge into its zone, and this host's own link beside it. It does nothing where firewalld does not
// run, or for a network that wants no zone; what fails is an error only for a
// zone that the network names.
func (z *zones) bind(ctx context.Context, n Network, log *slog.Logger) error {
	if n.Zone == "" && !n.Mode.Filtered() {
		return nil
	}
	for _, link := range linksOf(&n) {
		zone, err := z.enter(ctx, n, link)
		switch {
		case err != nil && n.Zone != "":
			return fmt.Errorf("putting it into the firewalld zone %q: %w", n.Zone, err)
		case err == nil && zone != "":
			log.Info("bridge is in firewalld's zone", "bridge", link, "zone", zone)
		case err != nil && !errors.Is(err, errNoFirewalld):
			log.Warn("no zone of firewalld for a bridge: firewalld may reject its guests' packets", "bridge", link, "error", err)
		}
	}
	return nil
}

// enter puts a link of the network into its zone, "" if it was there.
func (z *zones) enter(ctx context.Context, n Network, link string) (zone string, err error) {
	ctx, cancel := context.WithTimeout(ctx, firewalldTime)
	defer cancel()
	firewalld, err := z.firewalld(ctx)
	if err != nil {
		return "", err
	}
	if zone = n.Zone; zone == "" {
		if zone, err = defaultZone(ctx, firewalld, n.Mode); err != nil {
			return "", err
		}
	}
	var now string
	if err := firewalld.CallWithContext(ctx, firewalldZone+"getZoneOfInterface", 0, link).Store(&now); err != nil {
		return "", err
	}
	if now == zone {
		return "", nil
	}
	return zone, firewalld.CallWithContext(ctx, firewalldZone+"changeZoneOfInterface", 0, zone, link).Err
}

// defaultZone is the zone that libvirt's driver would choose: routed networks
// have one of their own, if it comes with its policy.
func defaultZone(ctx context.Context, firewalld dbus.BusObject, m Mode) (string, error) {
	var have, policies []string
	if err := firewalld.CallWithContext(ctx, firewalldZone+"getZones", 0).Store(&have); err != nil {
		return "", err
	}
	if m == ModeRoute && slices.Contains(have, zoneRouted) {
		// firewalld has policies since 0.9; an error means that there is none.
		if err := firewalld.CallWithContext(ctx, firewalldPolicies, 0).Store(&policies); err == nil && slices.Contains(policies, policyRouted) {
			return zoneRouted, nil
		}
	}
	if slices.Contains(have, zoneLibvirt) {
		return zoneLibvirt, nil
	}
	return "", fmt.Errorf("firewalld has no zone %q", zoneLibvirt)
}

// unbind takes the bridge out of its zone, if firewalld runs.
func (z *zones) unbind(ctx context.Context, n Network, log *slog.Logger) {
	if n.Zone == "" && !n.Mode.Filtered() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firewalldTime)
	defer cancel()
	firewalld, err := z.firewalld(ctx)
	if err != nil {
		return
	}
	for _, link := range linksOf(&n) {
		var zone string
		err = firewalld.CallWithContext(ctx, firewalldZone+"getZoneOfInterface", 0, link).Store(&zone)
		if err != nil || zone == "" {
			continue
		}
		if err := firewalld.CallWithContext(ctx, firewalldZone+"removeInterface", 0, zone, link).Err; err != nil {
			log.Warn("bridge stays in firewalld's zone", "bridge", link, "zone", zone, "error", err)
		}
	}
}

// rebind puts all networks' bridges back into their zones. It returns how many
// were not there.
func (z *zones) rebind(ctx context.Context, networks []Network, log *slog.Logger) (moved int) {
	for _, n := range networks {
		if n.Zone == "" && !n.Mode.Filtered() {
			continue
		}
		for _, link := range linksOf(&n) {
			zone, err := z.enter(ctx, n, link)
			switch {
			case errors.Is(err, errNoFirewalld):
				return moved
			case err != nil:
				log.Warn("bridge could not be put back into firewalld's zone", "bridge", link, "error", err)
			case zone != "":
				log.Info("bridge put back into firewalld's zone", "bridge", link, "zone", zone)
				moved++
			}
		}
	}
	return moved
}

// firewalld is firewalld's object, or errNoFirewalld. It is not started.
func (z *zones) firewalld(ctx context.Context) (dbus.BusObject, error) {
	bus, err := z.connect()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoFirewalld, err)
	}
	var running bool
	err = bus.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, firewalldName).Store(&running)
	if err != nil || !running {
		return nil, errors.Join(errNoFirewalld, err)
	}
	return bus.Object(firewalldName, firewalldPath), nil
}

// connect returns the connection to the bus, a new one if the last has ended.
func (z *zones) connect() (*sysbus.Conn, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.bus != nil && z.bus.Context().Err() == nil {
		return z.bus, nil
	}
	// It outlives the call that needs it first, and close ends it; only the
	// connecting has a limit.
	ctx, cancel := context.WithCancel(context.Background())
	limit := time.AfterFunc(firewalldTime, cancel)
	bus, err := sysbus.Connect(ctx)
	limit.Stop()
	if err != nil {
		cancel()
		return nil, err
	}
	z.bus, z.cancel = bus, cancel
	return bus, nil
}

// close leaves the bus.
func (z *zones) close() error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.bus == nil {
		return nil
	}
	err := z.bus.Close()
	z.cancel()
	z.bus = nil
	return err
}

// watchFirewalld tells notify whenever firewalld has loaded its rules anew or
// has come to the bus or left it, until ctx or the bus ends. At its begin it
// tells without a reason: nobody knows what happened before.
func watchFirewalld(ctx context.Context, notify func(reason Cause)) error {
	bus, err := sysbus.Connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = bus.Close() }()
	signals := make(chan *dbus.Signal, 64)
	bus.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(firewalldName), dbus.WithMatchInterface(firewalldName), dbus.WithMatchMember("Reloaded")},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, firewalldName)},
	} {
		if err := bus.AddMatchSignalContext(ctx, match...); err != nil {
			return err
		}
	}
	notify("")
	for {
		select {
		case signal, open := <-signals:
			if !open {
				return errors.New("the system bus has closed the connection")
			}
			if signal.Name == firewalldName+".Reloaded" {
				notify(CauseFirewalldReload)
			} else {
				notify(CauseFirewalldRestart)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
