package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	ipv4Forward = "/proc/sys/net/ipv4/ip_forward"
	ipv6Conf    = "/proc/sys/net/ipv6/conf"
)

// EnableForwarding lets the host forward IPv4 and IPv6 packets, each if asked.
// It never switches forwarding off, and writes nothing that is so already.
//
// A host that forwards IPv6 stops to take routes from router advertisements,
// except from links with accept_ra=2 (Documentation/networking/ip-sysctl.rst).
// Where that would cost the host a route it has, IPv6 forwarding is refused and
// the error names the link, as libvirt does.
func (b *Bridges) EnableForwarding(v4, v6 bool) error {
	if v4 {
		if err := writeSysctl(ipv4Forward, "1"); err != nil {
			return fmt.Errorf("enabling IPv4 forwarding: %w", err)
		}
	}
	if v6 {
		if err := b.enableIPv6Forwarding(); err != nil {
			return fmt.Errorf("enabling IPv6 forwarding: %w", err)
		}
	}
	return nil
}

func (b *Bridges) enableIPv6Forwarding() error {
	path := filepath.Join(ipv6Conf, "all", "forwarding")
	if value, err := readSysctl(path); err != nil || value == "1" {
		return err
	}
	if err := b.checkAdvertisedRoutes(); err != nil {
		return err
	}
	return writeSysctl(path, "1")
}

// checkAdvertisedRoutes fails if forwarding would cost the host a route that a
// router advertised.
func (b *Bridges) checkAdvertisedRoutes() error {
	routes, err := b.routes(unix.AF_INET6)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if r.protocol != unix.RTPROT_RA {
			continue
		}
		for _, index := range r.indexes {
			if err := b.checkAcceptsRA(index, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bridges) checkAcceptsRA(index int, r route) error {
	l, err := b.byIndex(index)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	value, err := readSysctl(filepath.Join(ipv6Conf, l.Name, "accept_ra"))
	if err != nil || value == "2" {
		return err
	}
	return fmt.Errorf("the host would lose route %v, which a router advertised on %q: set net.ipv6.conf.%s.accept_ra=2 first",
		r.dst, l.Name, l.Name)
}

// setIPv6 switches IPv6 on a bridge on or off. A bridge never configures itself
// from its guests' router advertisements. On a kernel without IPv6, off is
// success.
func setIPv6(name string, on bool) error {
	dir := filepath.Join(ipv6Conf, name)
	if _, err := os.Stat(ipv6Conf); errors.Is(err, fs.ErrNotExist) && !on {
		return nil
	}
	disable := "1"
	if on {
		disable = "0"
	}
	for _, s := range []struct{ key, value string }{
		{"disable_ipv6", disable},
		{"accept_ra", "0"},
		{"autoconf", "0"},
	} {
		if err := writeSysctl(filepath.Join(dir, s.key), s.value); err != nil {
			return fmt.Errorf("setting IPv6 sysctls: %w", err)
		}
	}
	return nil
}

// writeSysctl sets a sysctl unless it has that value.
func writeSysctl(path, value string) error {
	old, err := readSysctl(path)
	if err != nil || old == value {
		return err
	}
	return os.WriteFile(path, []byte(value), 0)
}

func readSysctl(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}
