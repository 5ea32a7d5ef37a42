package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"

	"golang.org/x/sys/unix"
)

// libvirtPackages are libvirtd, virsh and what runs the networks. The package
// with the scripts for System V keeps the machine's init as it is.
func libvirtPackages() []string {
	return []string{"libvirt-daemon-system", "libvirt-daemon-system-sysv", "libvirt-clients", "dnsmasq-base"}
}

// serviceGuard is what Debian's packages ask before they start a service.
const serviceGuard = "/usr/sbin/policy-rc.d"

// needs are what a benchmark compares with: programs, and the packages of those that
// are missing.
type needs struct {
	what               string
	programs, packages []string
}

// libvirtNeeds and keaNeeds are what is not part of the tests' tools.
func libvirtNeeds() needs {
	return needs{"libvirtd", []string{"libvirtd", "virsh", "dnsmasq"}, libvirtPackages()}
}

func keaNeeds() needs {
	return needs{"Kea", []string{"kea-dhcp4", "kea-dhcp6"}, keaPackages()}
}

// install installs what is missing. No service is started.
func (n needs) install() error {
	if !slices.ContainsFunc(n.programs, func(name string) bool { _, err := exec.LookPath(name); return err != nil }) {
		return nil
	}
	fmt.Fprintf(os.Stderr, "bench: installing %s to compare with; it is not started\n", n.what)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	allow, err := forbidServices()
	if err != nil {
		return err
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, n.packages...)
	return errors.Join(aptGet(ctx, "update"), aptGet(ctx, install...), allow())
}

// forbidServices puts up the guard, unless there is one, and returns what takes
// it down.
func forbidServices() (allow func() error, err error) {
	guard, err := os.OpenFile(serviceGuard, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if errors.Is(err, os.ErrExist) {
		return func() error { return nil }, nil
	}
	if err != nil {
		return nil, fmt.Errorf("keeping services from starting: %w", err)
	}
	_, err = guard.WriteString("#!/bin/sh\nexit 101\n")
	if err = errors.Join(err, guard.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("keeping services from starting: %w", err), os.Remove(serviceGuard))
	}
	return func() error { return os.Remove(serviceGuard) }, nil
}

// aptGet runs apt-get, whose output becomes part of the error.
func aptGet(ctx context.Context, args ...string) error {
	options := []string{"-qq", "-o", "APT::Sandbox::User=root", "-o", "DPkg::Lock::Timeout=300"}
	cmd := exec.CommandContext(ctx, "apt-get", append(options, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apt-get %s: %w: %s", args[0], err, out)
	}
	return nil
}
