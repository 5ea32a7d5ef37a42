package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/vnetd/vnetd/pkg/client"
)

// The guests of a monolithic libvirtd can't reach another network driver. So each
// network of vnetd stands in libvirtd a second time, as one that only names vnetd's
// bridge: its mirror. vnetd is master: what is changed in libvirtd is put back.

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

func (a *app) mirrorCommand() *cobra.Command {
	return group("mirror-libvirt", "Show vnetd's networks to the guests of a monolithic libvirtd",
		a.command("on", "Mirror all networks in libvirtd, and keep the mirrors in step", 0, 0, a.mirrorOn),
		a.mirrorOffCommand(),
		a.command("follow", "Keep the mirrors in step until interrupted, as the service does", 0, 0, a.mirrorFollow),
		a.mirrorHookCommand())
}

// mirrorOffCommand needs no vnetd.
func (a *app) mirrorOffCommand() *cobra.Command {
	return &cobra.Command{
		Use: "off", Short: "Remove the mirrors, the hook and the service", DisableFlagsInUseLine: true, Args: countArgs(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.mirrorOff(cmd.Context()) },
	}
}

// mirrorOn may be repeated. A network that can't be mirrored does not keep others
// from it.
func (a *app) mirrorOn(ctx context.Context, d daemon, _ []string) error {
	if _, err := os.Stat(virtqemudSocket); err == nil {
		return fmt.Errorf("%s is there: virtqemud needs no mirror, it finds vnetd by vnetd-libvirt.socket", virtqemudSocket)
	}
	faults, err := a.syncMirrors(ctx, d)
	if err != nil {
		return err
	}
	installed, err := installHook()
	if err != nil {
		return fmt.Errorf("installing libvirtd's hook: %w", err)
	}
	if installed {
		a.tell("libvirtd runs %s from its next start on: systemctl try-restart libvirtd", mirrorHook)
	}
	if bootedBySystemd() {
		faults = append(faults, systemctl(ctx, "enable", "--now", mirrorUnit))
	} else {
		a.tell(`no systemd here: "vnetctl mirror-libvirt follow" keeps the mirrors in step while it runs`)
	}
	return errors.Join(faults...)
}

// mirrorOff may be repeated.
func (a *app) mirrorOff(ctx context.Context) error {
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
			errs = append(errs, a.removeMirror(ctx, &there[i]))
		}
	}
	return errors.Join(errs...)
}

// tell says what was done, or what is to be known.
func (a *app) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(a.stderr, "vnetctl: "+format+"\n", args...)
}

// installHook writes the hook and tells whether it was another or none before.
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

// syncMirrors gives libvirtd a mirror of each network that has a bridge, and removes
// the mirrors of networks that are gone. Faults are what hinders single networks; err
// is that vnetd or libvirtd does not answer.
func (a *app) syncMirrors(ctx context.Context, d daemon) (faults []error, err error) {
	wanted, err := wantedMirrors(ctx, d)
	if err != nil {
		return nil, err
	}
	there, err := libvirtdNetworks(ctx)
	if err != nil {
		return nil, err
	}
	for i := range there {
		old := &there[i]
		if old.isMirror() && !slices.ContainsFunc(wanted, func(m *mirror) bool { return m.uuid == old.uuid && m.name == old.name }) {
			faults = append(faults, a.removeMirror(ctx, old))
		}
	}
	for _, m := range wanted {
		faults = append(faults, a.syncMirror(ctx, m, there))
	}
	return slices.DeleteFunc(faults, func(err error) bool { return err == nil }), nil
}

// wantedMirrors are those of vnetd's networks that have bridges. One that has been
// given none yet is at work without guests.
func wantedMirrors(ctx context.Context, d daemon) ([]*mirror, error) {
	networks, err := d.Networks(ctx)
	if err != nil {
		return nil, err
	}
	var wanted []*mirror
	for _, n := range networks {
		if n.Bridge == "" {
			continue
		}
		text, err := d.XML(ctx, n.Name, !n.Active)
		if errors.Is(err, client.ErrNotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		m, err := newMirror(n, text)
		if err != nil {
			return nil, err
		}
		wanted = append(wanted, m)
	}
	return wanted, nil
}

// syncMirror brings one mirror up to date, beside the networks that are there.
func (a *app) syncMirror(ctx context.Context, m *mirror, there []mirrored) error {
	var old *mirrored
	for i := range there {
		other := &there[i]
		switch {
		case other.name != m.name && other.uuid != m.uuid:
		case !other.isMirror():
			return fmt.Errorf("network %q is not mirrored: libvirtd has a network %q (%s) of its own, which vnetd's takes the place of after %s",
				m.name, other.name, other.uuid, other.farewell())
		case other.name == m.name && other.uuid == m.uuid:
			old = other
		}
	}
	changed, err := m.give(ctx, old)
	if err != nil {
		return fmt.Errorf("mirroring network %q: %w", m.name, err)
	}
	if changed {
		a.tell("network %s is mirrored in libvirtd, %s", m.name, map[bool]string{true: "active", false: "inactive"}[m.active])
	}
	return nil
}

// removeMirror takes a mirror out of libvirtd. Guests on it stay plugged in.
func (a *app) removeMirror(ctx context.Context, old *mirrored) error {
	if err := old.remove(ctx); err != nil {
		return fmt.Errorf("removing the mirror of network %q: %w", old.name, err)
	}
	a.tell("network %s is no longer mirrored in libvirtd", old.name)
	return nil
}
