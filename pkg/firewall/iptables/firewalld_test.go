package iptables_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// firewalld is a real one, with zones like those that libvirt brings.
type firewalld struct {
	*host
	config string
	log    *logBuffer
	cmd    *exec.Cmd
	bus    *sysbus.Conn
}

// newFirewalld starts a bus and prepares firewalld, which does not run yet.
func (h *host) newFirewalld() *firewalld {
	h.Helper()
	nstest.StartBus(h)
	// firewalld writes to /var/log whatever it is told.
	if err := unix.Mount("tmpfs", "/var/log", "tmpfs", 0, ""); err != nil {
		h.Fatal(err)
	}
	d := &firewalld{host: h, config: h.TempDir(), log: new(logBuffer)}
	d.write("zones/libvirt.xml", `<zone target="ACCEPT"><short>libvirt</short><rule priority="32767"><reject/></rule><service name="dhcp"/><service name="dns"/></zone>`)
	d.write("zones/libvirt-routed.xml", `<zone target="default"><short>libvirt-routed</short></zone>`)
	d.write("policies/libvirt-routed-out.xml", `<policy target="ACCEPT"><short>out</short><ingress-zone name="libvirt-routed"/><egress-zone name="ANY"/></policy>`)
	bus, err := sysbus.Connect(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { _ = bus.Close() })
	d.bus = bus
	return d
}

// write makes a file of firewalld's configuration.
func (d *firewalld) write(name, text string) {
	d.Helper()
	path := filepath.Join(d.config, name)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
		os.WriteFile(path, []byte("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n"+text), 0o644))
	if err != nil {
		d.Fatal(err)
	}
}

// start runs firewalld until stop or the end of the test, and returns when it
// answers.
func (d *firewalld) start() {
	d.Helper()
	d.cmd = exec.Command("firewalld", "--nofork", "--nopid", "--system-config", d.config)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		d.Fatalf("starting firewalld, of the package of that name: %v", err)
	}
	d.Cleanup(d.stop)
	nstest.Eventually(d, mendLimit, "start of firewalld", func() error {
		var state string
		err := d.object().StoreProperty("org.fedoraproject.FirewallD1.state", &state)
		if err == nil && state != "RUNNING" {
			err = errors.New(state)
		}
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, d.log)
		}
		return err
	})
}

// stop ends firewalld.
func (d *firewalld) stop() {
	_ = d.cmd.Process.Signal(unix.SIGTERM)
	_ = d.cmd.Wait()
}

// object is firewalld on the bus.
func (d *firewalld) object() dbus.BusObject {
	return d.bus.Object("org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1")
}

// zone waits until the bridge is in the zone.
func (d *firewalld) zone(when, bridge, want string) {
	d.Helper()
	nstest.Eventually(d, mendLimit, when, func() error {
		var got string
		err := d.object().CallWithContext(d.Context(), "org.fedoraproject.FirewallD1.zone.getZoneOfInterface", 0, bridge).Store(&got)
		if err == nil && got != want {
			err = fmt.Errorf("bridge %s is in zone %q, want %q", bridge, got, want)
		}
		return err
	})
}

// repaired fails the test unless there was a repair, or a few: firewalld removes
// rules in steps, which on a slow machine lie further apart than Watch waits.
func (d *firewalld) repaired(when string, f *firewall.Firewall, before uint64) {
	d.Helper()
	const steps = 8
	if n := f.Stats().Repairs - before; n < 1 || n > steps {
		d.Errorf("%d repairs after %s, want 1 to %d", n, when, steps)
	}
}

// A real firewalld comes, loads its rules anew and goes; each time the rules are
// mended and the bridges are in their zones. firewalld flushes the variant of
// iptables that is the host's own.
func TestFirewalld(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := &host{T: t, variant: "nft", log: new(logBuffer)}
		d := h.newFirewalld()
		f := h.watched(iptables.Config{})
		named := with(intents()["isolated"], func(n *firewall.Network) { n.Zone = "trusted" })
		routed := with(intents()["route"], func(n *firewall.Network) { n.Bridge = "virbr4" })
		if err := f.Set(h.Context(), named); err == nil || !strings.Contains(err.Error(), "firewalld is not running") {
			h.Errorf("Set with a zone without firewalld says %v", err)
		}
		h.set(f, natNetwork(), routed)
		want := h.saved()
		zones := func(when string) {
			h.Helper()
			h.mended(when, want)
			d.zone(when, "virbr0", "libvirt")
			d.zone(when, "virbr4", "libvirt-routed")
		}
		d.start()
		zones("firewalld's start")
		d.repaired("firewalld's start", f, 0)

		h.set(f, named)
		d.zone("a Set with a zone", named.Bridge, "trusted")
		want = h.saved()

		// What a slow firewalld takes away may all be back before it says that it reloaded:
		// such a reload has another cause.
		for tries := 1; ; tries++ {
			before := f.Stats().Repairs
			if err := d.object().CallWithContext(h.Context(), "org.fedoraproject.FirewallD1.reload", 0).Err; err != nil {
				h.Fatalf("reload: %v", err)
			}
			zones("firewalld's reload")
			d.zone("firewalld's reload", named.Bridge, "trusted")
			d.repaired("firewalld's reload", f, before)
			got := f.Stats().ByCause
			if got[firewall.CauseFirewalldReload]+got[firewall.CauseFirewalldRestart] > 0 {
				break
			}
			if tries == 5 {
				h.Fatalf("causes are %v", got)
			}
		}

		h.delete(f, named)
		d.zone("Delete", named.Bridge, "")
		want = scaffold(iptables.DefaultPrefix).add(f.Rules(routed)...).add(f.Rules(natNetwork())...)
		d.stop()
		h.mended("firewalld's end", want)
		d.start()
		zones("firewalld's return")
		if err := f.Set(h.Context(), with(named, func(n *firewall.Network) { n.Zone = "nosuch" })); err == nil || !strings.Contains(err.Error(), "nosuch") {
			h.Errorf("Set with an unknown zone says %v", err)
		}
	})
}
