package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/daemon"
	"github.com/vnetd/vnetd/pkg/api"
)

// grace is how long a check has to tell what it found when the time is over.
const grace = 100 * time.Millisecond

// host is what doctor looks at itself. The zero host is the real one.
type host struct {
	root   string // before all paths, for tests
	lookup func(ctx context.Context, name string) []netip.Addr
	show   func() string // for tests, in place of daemon.Show
	limit  time.Duration // of all checks, 0: examineLimit
}

// path is a path on the host.
func (h host) path(path string) string { return filepath.Join("/", h.root, path) }

// exists reports whether there is anything at path.
func (h host) exists(path string) bool {
	_, err := os.Stat(h.path(path))
	return err == nil
}

// unit returns what systemctl shows of vnetd's service.
func (h host) unit(ctx context.Context) string {
	if h.show != nil {
		return h.show()
	}
	return daemon.Show(context.WithoutCancel(ctx))
}

// resolve asks the host for the addresses of a name, as its programs would;
// none where nobody knows them.
func (h host) resolve(ctx context.Context, name string) []netip.Addr {
	if h.lookup != nil {
		return h.lookup(ctx, name)
	}
	cmd := exec.CommandContext(ctx, "getent", "ahosts", name)
	cmd.WaitDelay = grace
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	var addrs []netip.Addr
	for line := range strings.Lines(string(out)) {
		word, _, _ := strings.Cut(line, " ")
		if a, err := netip.ParseAddr(word); err == nil {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// hostChecks are the checks of a host: with vnetd's status, or why there is none.
type hostChecks struct {
	host
	status *api.Status
	down   error
}

// finding is something that doctor found, in JSON as it is.
type finding struct {
	Number   int          `json:"number"` // from 1, the worst first
	Check    string       `json:"check"`  // a stable word
	Severity api.Severity `json:"severity"`
	Networks []string     `json:"networks"` // empty: the whole host
	Message  string       `json:"message"`
	Evidence string       `json:"evidence"`
	Remedy   string       `json:"remedy"` // a command, or empty
}

// check looks for one sort of trouble.
type check struct {
	name string
	look func(c *hostChecks, ctx context.Context) []finding
}

// checks are all that doctor does, in this order.
var checks = []check{
	{"daemon", (*hostChecks).daemon},
	{"bus-policy", (*hostChecks).busPolicy},
	{"conditions", (*hostChecks).conditions},
	{"networks", (*hostChecks).networks},
	{"pools", (*hostChecks).pools},
	{"name-service", (*hostChecks).nameService},
	{"upstreams", (*hostChecks).upstreams},
	{"modules", (*hostChecks).modules},
	{"forwarding", (*hostChecks).forwarding},
	{"disks", (*hostChecks).disks},
	{"bridge-helper", (*hostChecks).bridgeHelper},
}

// daemon: is it there, and does it answer?
func (c *hostChecks) daemon(ctx context.Context) []finding {
	f := finding{Severity: api.SeverityError, Evidence: fmt.Sprint(c.down)}
	switch {
	case c.down == nil:
		return nil
	case !c.exists("/run/dbus/system_bus_socket") && os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") == "":
		f.Message, f.Remedy = "there is no system bus", "systemctl start dbus.socket"
	case errors.Is(c.down, api.Denied):
		f.Message, f.Remedy = "the bus forbids talking to vnetd", "ls /usr/share/dbus-1/system.d/org.vnetd1.conf"
	case errors.Is(c.down, api.NotRunning):
		f.Message, f.Remedy = "vnetd does not run: networks stay as they are, but nobody gets an address or a name", "systemctl start vnetd"
		if why, remedy := daemon.Absence(c.unit(ctx)); why != "" {
			f.Evidence, f.Remedy = why, remedy
		}
	default:
		f.Message, f.Remedy = "vnetd does not answer as it should", "journalctl -u vnetd -e"
	}
	return []finding{f}
}

// busPolicy: may vnetd own its name? One that runs does.
func (c *hostChecks) busPolicy(context.Context) []finding {
	places := []string{"/usr/share/dbus-1/system.d/org.vnetd1.conf", "/etc/dbus-1/system.d/org.vnetd1.conf"}
	if c.status != nil || slices.ContainsFunc(places, c.exists) {
		return nil
	}
	return []finding{{
		Severity: api.SeverityWarning, Message: "the bus's policy for org.vnetd1 is not installed: vnetd can't take its name",
		Evidence: "none of " + strings.Join(places, ", "), Remedy: "apt install --reinstall vnetd",
	}}
}

// conditions: what vnetd found, the firewall's above all.
func (c *hostChecks) conditions(context.Context) []finding {
	var all []finding
	if c.status == nil {
		return nil
	}
	for _, is := range c.status.Conditions {
		all = append(all, finding{
			Check: is.Kind, Severity: is.Severity, Networks: is.Networks, Message: is.Message, Evidence: is.Evidence, Remedy: is.Remedy,
		})
	}
	return all
}

// eachNetwork collects what look finds in each network; nothing without vnetd.
func (c *hostChecks) eachNetwork(look func(n api.NetworkStatus) []finding) []finding {
	if c.status == nil {
		return nil
	}
	var all []finding
	for _, n := range c.status.Networks {
		for _, f := range look(n) {
			f.Networks = []string{n.Name}
			all = append(all, f)
		}
	}
	return all
}

// networks: is each as it should be?
func (c *hostChecks) networks(context.Context) []finding {
	return c.eachNetwork(func(n api.NetworkStatus) []finding {
		switch {
		case n.State == api.Failed:
			return []finding{{Severity: api.SeverityError, Message: "the network could not be started or stopped", Evidence: n.LastError, Remedy: "vnetctl start " + n.Name}}
		case n.State == api.Degraded:
			return []finding{{Severity: api.SeverityError, Message: "a part of the network fails and is tried again", Evidence: n.LastError, Remedy: "journalctl -u vnetd -e"}}
		case n.Autostart && n.State == api.Inactive:
			return []finding{{Severity: api.SeverityWarning, Message: "the network starts with the host but is not active", Evidence: "autostart yes, state inactive", Remedy: "vnetctl start " + n.Name}}
		}
		return nil
	})
}

// pools: are there addresses left?
func (c *hostChecks) pools(context.Context) []finding {
	return c.eachNetwork(func(n api.NetworkStatus) []finding {
		var all []finding
		for _, p := range n.Pools {
			f := finding{Evidence: fmt.Sprintf("%d of %s addresses of %s are leased", p.Used, sizeText(p.Size), p.Family), Remedy: "vnetctl edit " + n.Name}
			switch {
			case p.Size == 0:
				continue
			case p.Used >= p.Size:
				f.Severity, f.Message = api.SeverityError, "the DHCP pool is exhausted: new guests get no address"
			case float64(p.Used) >= 0.9*float64(p.Size):
				f.Severity, f.Message = api.SeverityWarning, "the DHCP pool is nearly exhausted"
			default:
				continue
			}
			all = append(all, f)
		}
		return all
	})
}

// lookups is how many names are looked up at a time.
const lookups = 16

// nameService: does this host know the guests by their names? Every network
// serves its gateway's.
func (c *hostChecks) nameService(ctx context.Context) []finding {
	if c.status == nil {
		return nil
	}
	var names []api.NetworkStatus
	for _, n := range c.status.Networks {
		if n.Active && n.DNS != nil && n.DNS.Domain != "" {
			names = append(names, n)
		}
	}
	answers := make([][]netip.Addr, len(names))
	var group errgroup.Group
	group.SetLimit(lookups)
	for i, n := range names {
		group.Go(func() error {
			answers[i] = c.resolve(ctx, "gateway."+n.DNS.Domain)
			return nil
		})
	}
	_ = group.Wait() // no error is returned
	silent := finding{Severity: api.SeverityWarning, Message: "this host's resolver has no answer in time: whether programs find guests by their names is not known", Remedy: "resolvectl status"}
	unknown := finding{Severity: api.SeverityWarning, Message: "this host's programs don't ask vnetd for the guests' names"}
	var all []finding
	for i, n := range names {
		f := unknown
		f.Networks, f.Evidence, f.Remedy = []string{n.Name}, "getent ahosts gateway."+n.DNS.Domain+" does not give the gateway", "resolvectl status "+n.Bridge
		given := slices.ContainsFunc(answers[i], func(a netip.Addr) bool {
			return slices.ContainsFunc(n.Addresses, func(p netip.Prefix) bool { return p.Contains(a) })
		})
		switch {
		case given:
		case ctx.Err() != nil && len(answers[i]) == 0:
			silent.Networks, silent.Evidence = append(silent.Networks, n.Name), "getent ahosts gateway."+n.DNS.Domain+" does not end"
		case !c.exists("/run/systemd/resolve"):
			f.Severity, f.Remedy = api.SeverityInfo, "systemctl enable --now systemd-resolved"
			all = append(all, f)
		default:
			all = append(all, f)
		}
	}
	if len(silent.Networks) > 0 {
		all = append(all, silent)
	}
	return all
}

// upstreams: does anybody answer guests' questions about the rest of the world?
func (c *hostChecks) upstreams(context.Context) []finding {
	return c.eachNetwork(func(n api.NetworkStatus) []finding {
		if !n.Active || n.DNS == nil {
			return nil
		}
		var all []finding
		for _, u := range n.DNS.Upstreams {
			if u.Failing {
				all = append(all, finding{
					Severity: api.SeverityWarning, Message: "a name server that guests' questions are forwarded to does not answer",
					Evidence: u.Addr.String(), Remedy: "dig @" + u.Addr.Addr().String() + " .",
				})
			}
		}
		return all
	})
}

// modules: does the kernel have what networks are made of?
func (c *hostChecks) modules(context.Context) []finding {
	var all []finding
	for _, m := range []struct {
		name, path string
		severity   api.Severity
		message    string
	}{
		{"tun", "/dev/net/tun", api.SeverityError, "the kernel has no TAP devices: no port can be made"},
		{"bridge", "/sys/module/bridge", api.SeverityError, "the kernel has no bridges: no network can be started"},
		{"vhost_net", "/dev/vhost-net", api.SeverityInfo, "guests' packets are copied by QEMU, not by the kernel (vhost=on)"},
	} {
		if !c.exists(m.path) {
			all = append(all, finding{Severity: m.severity, Message: m.message, Evidence: m.path + " does not exist", Remedy: "modprobe " + m.name})
		}
	}
	return all
}

// forwarding: with vnetd, a condition tells, by network.
func (c *hostChecks) forwarding(context.Context) []finding {
	const path = "/proc/sys/net/ipv4/ip_forward"
	value, err := os.ReadFile(c.path(path))
	if c.status != nil || err != nil || strings.TrimSpace(string(value)) != "0" {
		return nil
	}
	return []finding{{
		Severity: api.SeverityWarning, Message: "IPv4 forwarding is off: guests reach nothing beyond this host",
		Evidence: "net.ipv4.ip_forward = 0", Remedy: "sysctl -w net.ipv4.ip_forward=1",
	}}
}

// disks: with vnetd, a condition tells of the directories that it is configured
// with; these are the usual ones.
func (c *hostChecks) disks(context.Context) []finding {
	var all []finding
	for _, dir := range []string{"/etc/vnetd", "/run", "/var/lib/vnetd"} {
		var s unix.Statfs_t
		if c.status != nil || unix.Statfs(c.path(dir), &s) != nil {
			continue
		}
		f := finding{Severity: api.SeverityError, Message: "vnetd can't write to " + dir, Remedy: "df -h " + dir}
		switch {
		case s.Flags&unix.ST_RDONLY != 0:
			f.Evidence, f.Remedy = "read-only file system", "findmnt --target "+dir
		case s.Bavail*uint64(s.Bsize) < 1<<20:
			f.Evidence = fmt.Sprintf("%d KiB are free", s.Bavail*uint64(s.Bsize)>>10)
		default:
			continue
		}
		all = append(all, f)
	}
	return all
}

// helperPath is where QEMU finds the helper.
const helperPath = "/usr/libexec/vnetd/vnet-bridge-helper"

// bridgeHelper: can every user's QEMU run it?
func (c *hostChecks) bridgeHelper(context.Context) []finding {
	info, err := os.Stat(c.path(helperPath))
	f := finding{Severity: api.SeverityWarning, Evidence: helperPath}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.Severity, f.Message = api.SeverityInfo, "QEMU's helper is not installed: guests started without libvirt need it for -netdev tap,helper="
		f.Evidence += " does not exist"
	case err != nil:
		f.Message, f.Evidence = "QEMU's helper can't be looked at", err.Error()
	case info.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0:
		f.Message, f.Evidence, f.Remedy = "QEMU's helper has more rights than it needs", fmt.Sprintf("%s is %v", helperPath, info.Mode()), "chmod 755 "+helperPath
	case info.Mode().Perm()&0o001 == 0:
		f.Message, f.Evidence, f.Remedy = "QEMU's helper can't be run by every user", fmt.Sprintf("%s is %v", helperPath, info.Mode()), "chmod 755 "+helperPath
	default:
		return nil
	}
	return []finding{f}
}
