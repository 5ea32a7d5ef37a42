package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
)

// mirrorUnit keeps the mirrors in step.
const mirrorUnit = "vnetd-mirror-libvirt.service"

// mirrorHook is run by libvirtd for each of its networks, mirrorHookText is in it.
const (
	mirrorHook     = "/etc/libvirt/hooks/network.d/vnetd"
	mirrorHookText = `#!/bin/sh
# Written by "vnetctl mirror-libvirt on": libvirtd tells vnetd of its guests' ports.
[ -x %[1]s ] || exit 0
exec %[1]s mirror-libvirt hook "$@"
`
)

// virtqemudSocket is there where virtqemud is.
const virtqemudSocket = "/run/libvirt/virtqemud-sock"

// Mirrors are vnetd's networks in a monolithic libvirtd, whose guests can't reach
// another network driver: each stands there a second time, as one that only names
// vnetd's bridge. vnetd is master: what is changed in libvirtd is put back.
type Mirrors struct {
	Daemon *client.Client
	Tell   func(text string) // says what was done, or what is to be known
}

// On mirrors all networks, and has libvirtd's hook and the service keep the mirrors in
// step. It may be repeated. A network that can't be mirrored keeps no other from it.
func (m Mirrors) On(ctx context.Context) error {
	if _, err := os.Stat(virtqemudSocket); err == nil {
		return fmt.Errorf("%s is there: virtqemud needs no mirror, it finds vnetd by vnetd-libvirt.socket", virtqemudSocket)
	}
	faults, err := m.sync(ctx)
	if err != nil {
		return err
	}
	installed, err := installHook()
	if err != nil {
		return fmt.Errorf("installing libvirtd's hook: %w", err)
	}
	if installed {
		m.tell("libvirtd runs %s from its next start on: systemctl try-restart libvirtd", mirrorHook)
	}
	if bootedBySystemd() {
		faults = append(faults, systemctl(ctx, "enable", "--now", mirrorUnit))
	} else {
		m.tell(`no systemd here: "vnetctl mirror-libvirt follow" keeps the mirrors in step while it runs`)
	}
	return errors.Join(faults...)
}

// Off removes the mirrors, the hook and the service. It may be repeated, and needs no
// Daemon.
func (m Mirrors) Off(ctx context.Context) error {
	var errs []error
	if bootedBySystemd() {
		errs = append(errs, systemctl(ctx, "disable", "--now", mirrorUnit))
	}
	if err := os.Remove(mirrorHook); !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	_ = os.Remove(filepath.Dir(mirrorHook)) // stays where others have hooks in it
	there, err := libvirtdNetworks(ctx)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("mirrors stay until this is repeated: %w", err))...)
	}
	for i := range there {
		if there[i].isMirror() {
			errs = append(errs, m.remove(ctx, &there[i]))
		}
	}
	return errors.Join(errs...)
}

func (m Mirrors) tell(format string, args ...any) { m.Tell(fmt.Sprintf(format, args...)) }

// installHook writes the hook and reports whether it was another or none before.
func installHook() (installed bool, err error) {
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	text := fmt.Sprintf(mirrorHookText, self)
	if was, err := os.ReadFile(mirrorHook); err == nil && string(was) == text {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(mirrorHook), 0o755); err != nil {
		return false, err
	}
	if err := os.WriteFile(mirrorHook, []byte(text), 0o755); err != nil {
		return false, err
	}
	return true, os.Chmod(mirrorHook, 0o755) // whatever the umask
}

// bootedBySystemd is sd_booted(3).
func bootedBySystemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

func systemctl(ctx context.Context, args ...string) error {
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %v: %w: %s", args, err, out)
	}
	return nil
}

// sync gives libvirtd a mirror of each network that has a bridge, and removes
// the mirrors of networks that are gone. Faults are what hinders single networks; err
// is that vnetd or libvirtd does not answer.
func (m Mirrors) sync(ctx context.Context) (faults []error, err error) {
	wanted, err := m.wanted(ctx)
	if err != nil {
		return nil, err
	}
	there, err := libvirtdNetworks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range there {
		old := &there[i]
		if old.isMirror() && !slices.ContainsFunc(wanted, func(w *mirror) bool { return w.uuid == old.uuid && w.name == old.name }) {
			faults = append(faults, m.remove(ctx, old))
		}
	}
	for _, one := range wanted {
		faults = append(faults, m.syncOne(ctx, one, there))
	}
	return slices.DeleteFunc(faults, func(err error) bool { return err == nil }), nil
}

// wanted are those of vnetd's networks that have bridges. One that has been
// given none yet is at work without guests.
func (m Mirrors) wanted(ctx context.Context) ([]*mirror, error) {
	networks, err := m.Daemon.Networks(ctx)
	if err != nil {
		return nil, err
	}
	var wanted []*mirror
	for _, n := range networks {
		if n.Bridge == "" {
			continue
		}
		text, err := m.Daemon.Network(n.Name).XML(ctx, !n.Active)
		if errors.Is(err, api.NotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		one, err := newMirror(n, text)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, one)
	}
	return wanted, nil
}

// syncOne brings one mirror up to date, beside the networks that are there.
func (m Mirrors) syncOne(ctx context.Context, one *mirror, there []mirrored) error {
	var old *mirrored
	for i := range there {
		other := &there[i]
		switch {
		case other.name != one.name && other.uuid != one.uuid:
		case !other.isMirror():
			return fmt.Errorf("network %q is not mirrored: libvirtd has a network %q (%s) of its own, which vnetd's takes the place of after %s",
				one.name, other.name, other.uuid, other.farewell())
		case other.name == one.name && other.uuid == one.uuid:
			old = other
		}
	}
	changed, err := one.give(ctx, old)
	if err != nil {
		return fmt.Errorf("mirroring network %q: %w", one.name, err)
	}
	if changed {
		m.tell("network %s is mirrored in libvirtd, %s", one.name, map[bool]string{true: "active", false: "inactive"}[one.active])
	}
	return nil
}

// remove takes a mirror out of libvirtd. Guests on it stay plugged in.
func (m Mirrors) remove(ctx context.Context, old *mirrored) error {
	if err := old.remove(ctx); err != nil {
		return fmt.Errorf("removing the mirror of network %q: %w", old.name, err)
	}
	m.tell("network %s is no longer mirrored in libvirtd", old.name)
	return nil
}
