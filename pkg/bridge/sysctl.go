package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// netSysctls has a directory per family.
const netSysctls = "/proc/sys/net"

const ipv6Conf = netSysctls + "/ipv6/conf"

// setSysctls brings the sysctls of the bridge l to cfg. IPv6 switched off is success
// where there is none: on a kernel without IPv6, and on a bridge with an MTU below 1280,
// which the kernel takes IPv6 away from (addrconf_notify of net/ipv6/addrconf.c), whoever
// set that MTU: the bridge's configuration, or a port with a small one.
func (c *conn) setSysctls(l *link, cfg *Config) error {
	wanted := forwardSysctls(cfg)
	_, err := os.Stat(filepath.Join(ipv6Conf, cfg.Name))
	mtu := cmp.Or(cfg.MTU, l.MTU)
	switch missing := errors.Is(err, fs.ErrNotExist); {
	case missing && !cfg.hasIPv6():
	case missing && mtu < minIPv6:
		return fmt.Errorf("the kernel has no IPv6 on %q: its MTU is %d, want at least %d on it and on all its ports", cfg.Name, mtu, minIPv6)
	default:
		wanted = append(ipv6Sysctls(cfg.Name, cfg.hasIPv6()), wanted...)
	}
	wanted = append(append(wanted, neighbourSysctls(cfg)...), loopbackSysctls(cfg)...)
	var changes []change
	for _, s := range wanted {
		has, err := readSysctl(s.path)
		if err != nil {
			return fmt.Errorf("reading sysctls: %w", err)
		}
		if has == s.value {
			continue
		}
		key := fileKey(s.path) + " = "
		changes = append(changes, change{
			Difference: Difference{cfg.Name, AspectSysctl, key + has, key + s.value},
			do:         func() error { return writeSysctl(s.path, s.value) },
		})
	}
	return c.carryOut(changes, cfg.Amend)
}

// forwardSysctls are the settings by which the host forwards what comes from the bridge:
// of those families that it forwards at all. Where it forwards none that is the admin's
// doing, or Forward follows, which switches it on for every link.
func forwardSysctls(cfg *Config) (all []sysctl) {
	for _, family := range cfg.forwarded() {
		if on, err := readSysctl(sysctlKey(family, "conf", "all", "forwarding")); err == nil && on == "1" {
			all = append(all, sysctl{sysctlKey(family, "conf", cfg.Name, "forwarding"), "1"})
		}
	}
	return all
}

// forwarded are the families of which the host forwards the bridge's packets, as their
// directories of sysctls are called.
func (c *Config) forwarded() (families []string) {
	if c.Forward4 {
		families = append(families, "ipv4")
	}
	if c.Forward6 && c.hasIPv6() {
		families = append(families, "ipv6")
	}
	return families
}

// minIPv6 is the least MTU of a link with IPv6, RFC 8200 section 5.
const minIPv6 = 1280

// sysctl is a setting by its path.
type sysctl struct{ path, value string }

// ipv6Sysctls are the settings of a bridge with IPv6 or without. It never
// configures itself from its guests' router advertisements.
func ipv6Sysctls(name string, on bool) []sysctl {
	dir, disable := filepath.Join(ipv6Conf, name), "1"
	if on {
		disable = "0"
	}
	return []sysctl{
		{filepath.Join(dir, "disable_ipv6"), disable},
		{filepath.Join(dir, "accept_ra"), "0"},
		{filepath.Join(dir, "autoconf"), "0"},
	}
}

// unresolvedBytes is how much waits for one neighbour that the kernel looks for. By default
// (Documentation/networking/ip-sysctl.rst) that is so much that a guest who asks under the
// addresses of absent ones fills the send buffers of the services it asks. RFC 1122
// section 2.3.2.2 wants at least one packet; this is some seven of 1,500 bytes.
const unresolvedBytes = "16384"

// neighbourSysctls are the settings of a bridge with addresses as to its neighbours.
func neighbourSysctls(cfg *Config) []sysctl {
	if len(cfg.Addrs) == 0 {
		return nil
	}
	all := []sysctl{{sysctlKey("ipv4", "neigh", cfg.Name, "unres_qlen_bytes"), unresolvedBytes}}
	if cfg.hasIPv6() {
		all = append(all, sysctl{sysctlKey("ipv6", "neigh", cfg.Name, "unres_qlen_bytes"), unresolvedBytes})
	}
	return all
}

// Forwards4 reports whether the host forwards IPv4 packets that come in by a link. What
// can't be read is taken to be so.
func Forwards4(link string) bool {
	value, err := readSysctl(sysctlKey("ipv4", "conf", link, "forwarding"))
	return err != nil || value != "0"
}

// StrictReverse4 reports whether the kernel drops IPv4 packets that come in by a link and
// whose sender it would answer by another one: the larger of two rp_filters is 1
// (Documentation/networking/ip-sysctl.rst).
func StrictReverse4(link string) bool {
	all, _ := readSysctl(sysctlKey("ipv4", "conf", "all", "rp_filter"))
	own, _ := readSysctl(sysctlKey("ipv4", "conf", link, "rp_filter"))
	return max(all, own) == "1"
}

// Sysctl is one setting of the kernel, its key in the form of sysctl.d(5).
type Sysctl struct{ Key, Value string }

// Sysctls are the settings that Ensure makes for cfg and Forward for the
// families, where the kernel does not have them yet. It is pure.
func Sysctls(cfg Config, v4, v6 bool) []Sysctl {
	var all []sysctl
	if cfg.MTU == 0 || cfg.MTU >= minIPv6 {
		all = ipv6Sysctls(cfg.Name, cfg.hasIPv6())
	}
	all = append(append(all, neighbourSysctls(&cfg)...), loopbackSysctls(&cfg)...)
	if v4 {
		all = append(all, sysctl{sysctlKey("ipv4", "ip_forward"), "1"})
	}
	if v6 {
		all = append(all, sysctl{sysctlKey("ipv6", "conf", "all", "forwarding"), "1"})
	}
	for _, family := range cfg.forwarded() {
		all = append(all, sysctl{sysctlKey(family, "conf", cfg.Name, "forwarding"), "1"})
	}
	var out []Sysctl
	for _, s := range all {
		out = append(out, Sysctl{fileKey(s.path), s.value})
	}
	return out
}

// CopySysctls gives link to the sysctls of link from, but for those that can't be read
// or written (stable_secret, while it isn't set), and has it give itself no IPv6
// link-local address (addr_gen_mode, IN6_ADDR_GEN_MODE_NONE). A kernel without a family
// has none.
func CopySysctls(from, to string) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		entries, err := os.ReadDir(sysctlKey(family, "conf", from))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if value, err := readSysctl(sysctlKey(family, "conf", from, e.Name())); err == nil {
				_ = writeSysctl(sysctlKey(family, "conf", to, e.Name()), value)
			}
		}
	}
	err := writeSysctl(sysctlKey("ipv6", "conf", to, "addr_gen_mode"), "1")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
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

// loopbackSysctls are the settings by which answers come back to 127.0.0.0/8.
func loopbackSysctls(cfg *Config) []sysctl {
	key := sysctlKey("ipv4", "conf", cfg.Name, "route_localnet")
	switch {
	case cfg.Loopback4:
		return []sysctl{{key, "1"}}
	case cfg.FormerLoopback4:
		return []sysctl{{key, "0"}}
	}
	return nil
}

// Rewrites6 reports whether IPv6 packets that come in by bridges' ports pass ip6tables
// before the bridge has them (br_netfilter): an answer to ::1 has that destination then
// when it seems to come off a wire, and is dropped.
func Rewrites6() bool {
	value, err := readSysctl(netSysctls + "/bridge/bridge-nf-call-ip6tables")
	return err == nil && value != "0"
}
