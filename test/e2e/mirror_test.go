package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// mirrorHookPath is libvirtd's hook.
const mirrorHookPath = "/etc/libvirt/hooks/network.d/vnetd"

// mirrorHost is a host with vnetd and a monolithic libvirtd.
type mirrorHost struct {
	*nstest.Lab
	*nstest.Libvirtd
	t *testing.T
}

// newMirrorHost starts both; vnetd keeps libvirt's files of leases.
func newMirrorHost(t *testing.T) mirrorHost {
	t.Helper()
	l := nstest.NewLab(t)
	const config, leases = "/run/vnetd.toml", "/var/lib/libvirt/dnsmasq"
	if err := errors.Join(os.MkdirAll(leases, 0o755), os.WriteFile(config, []byte("[libvirt]\nleases_dir = '"+leases+"'\n[metrics]\nlisten = '127.0.0.1:9753'\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	l.StartVnetd("--config", config)
	return mirrorHost{l, l.StartLibvirtd(), t}
}

// virsh runs a command of virsh that must succeed.
func (h mirrorHost) virsh(args ...string) string {
	h.t.Helper()
	out, err := h.Virsh("", args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// mirrors awaits that libvirtd's networks are these: name, "active" or "inactive",
// and whether they start by themselves, each.
func (h mirrorHost) mirrors(want ...string) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, "keeping the mirrors in step", func() error {
		out, err := h.Virsh("", "net-list", "--all")
		var got []string
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); len(f) > 2 {
				got = append(got, strings.Join(f[:3], " "))
			}
		}
		if text := strings.Join(got, "; "); err != nil || text != strings.Join(want, "; ") {
			return fmt.Errorf("libvirtd has %q, want %q: %w", text, want, err)
		}
		return nil
	})
}

// follow keeps the mirrors in step until the test ends, or stop is called.
func (h mirrorHost) follow() (stop func()) {
	h.t.Helper()
	// Root without rights, as the unit has it.
	cmd := exec.Command("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all",
		filepath.Join(h.Bin, "vnetctl"), "mirror-libvirt", "follow")
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		err := errors.Join(cmd.Process.Signal(unix.SIGTERM), cmd.Wait())
		if err != nil || h.t.Failed() {
			h.t.Errorf("vnetctl mirror-libvirt follow: %v\n%s", err, &said)
		}
	})
	h.t.Cleanup(stop)
	return stop
}

// port is an error while vnetd has no port of that guest.
func (h mirrorHost) port(guest string) error {
	if r := h.Vnetctl(h.t.Context(), "port", "list"); r.Code != 0 || !strings.Contains(r.Stdout, guest) {
		return fmt.Errorf("no port of %s: %w\n%s", guest, r.Err(), r.Stdout)
	}
	return nil
}

// networkDocumentOf is a network of vnetd with a group of ports.
func networkDocumentOf(name, bridge, subnet string) string {
	return fmt.Sprintf("<network><name>%s</name><forward mode='nat'/><bridge name='%s'/><portgroup name='staff' default='yes'/>"+
		"<ip address='%s.1' netmask='255.255.255.0'><dhcp><range start='%[3]s.100' end='%[3]s.199'/></dhcp></ip></network>", name, bridge, subnet)
}

// TestMirrorFollows holds that a monolithic libvirtd has, under their names, the
// networks that vnetd has and nothing else of vnetd's; that its own stay its own; and
// that nothing is left when the mirror is switched off.
func TestMirrorFollows(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newMirrorHost(t)
		define := func(text string) {
			t.Helper()
			if err := h.VnetctlInput(t.Context(), text, "define", "-").Err(); err != nil {
				t.Fatal(err)
			}
		}
		own := "<network><name>taken</name><forward mode='bridge'/><bridge name='br0'/></network>"
		if _, err := h.Virsh(own, "net-define", "/dev/stdin"); err != nil {
			t.Fatal(err)
		}
		define(networkDocumentOf("taken", "virbr8", "192.0.2"))
		define(networkDocumentOf("lab", "virbr7", "198.51.100"))
		vnetctl(t, h.Lab, "start", "lab")

		r := h.Vnetctl(t.Context(), "mirror-libvirt", "on")
		if err := story.Contains("vnetctl mirror-libvirt on", r.Stderr, "network lab is mirrored in libvirtd, active",
			mirrorHookPath, `network "taken" is not mirrored: libvirtd has a network "taken"`, "virsh -c qemu:///system net-undefine taken"); err != nil || r.Code != 1 {
			t.Errorf("exit code %d: %v", r.Code, err)
		}
		h.mirrors("lab active no", "taken inactive no")
		vnetctl(t, h.Lab, "undefine", "taken")
		if r := h.Vnetctl(t.Context(), "mirror-libvirt", "on"); r.Code != 0 || strings.Contains(r.Stderr, "mirrored") || strings.Contains(r.Stderr, mirrorHookPath) {
			t.Errorf("a second time it does something: exit code %d: %s", r.Code, r.Stderr)
		}

		stop := h.follow()
		define(networkDocumentOf("dmz", "virbr9", "192.0.2"))
		h.mirrors("dmz inactive no", "lab active no", "taken inactive no")
		vnetctl(t, h.Lab, "stop", "lab")
		vnetctl(t, h.Lab, "enable", "lab")
		h.mirrors("dmz inactive no", "lab inactive yes", "taken inactive no")
		vnetctl(t, h.Lab, "undefine", "dmz")
		vnetctl(t, h.Lab, "start", "lab")
		h.mirrors("lab active yes", "taken inactive no")

		// What is changed in libvirtd is put back, also when libvirtd was away.
		h.virsh("net-destroy", "lab")
		h.mirrors("lab active yes", "taken inactive no")
		h.virsh("net-undefine", "lab")
		h.mirrors("lab active yes", "taken inactive no")
		h.Restart()
		h.virsh("net-destroy lab")
		h.virsh("net-undefine lab")
		h.mirrors("lab active yes", "taken inactive no")

		stop()
		for range 2 {
			vnetctl(t, h.Lab, "mirror-libvirt", "off")
			h.mirrors("taken inactive no")
		}
		if _, err := os.Stat(mirrorHookPath); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("libvirtd's hook is left: %v", err)
		}
	})
}

// domain is a guest of libvirtd's, with a card on a network.
var domain = `<domain type='qemu'>
  <name>vm1</name>
  <memory unit='MiB'>160</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>%[1]s/vmlinuz</kernel>
    <initrd>%[1]s/initramfs.gz</initrd>
    <cmdline>` + nstest.CommandLine + `vnet.name=web1</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <interface type='network'>
      <mac address='52:54:00:00:00:11'/>
      <source network='lab'/>
      <model type='virtio'/>
      <rom enabled='no'/>
    </interface>
    <serial type='file'><source path='/run/console'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>`

// TestMonolithicLibvirtd holds that a libvirtd as Debian has it starts a guest on a
// network of vnetd, and that its lease and its name are where libvirt's users look.
func TestMonolithicLibvirtd(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newMirrorHost(t)
		root, err := nstest.Root()
		if err != nil {
			t.Fatal(err)
		}
		if err := h.VnetctlInput(t.Context(), networkDocumentOf("lab", "virbr7", "198.51.100"), "define", "-").Err(); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, h.Lab, "start", "lab")
		vnetctl(t, h.Lab, "mirror-libvirt", "on")
		h.Restart() // for the hook
		h.follow()
		h.mirrors("lab active no")
		if _, err := h.Virsh(fmt.Sprintf(domain, filepath.Join(root, ".cache/guest")), "define", "/dev/stdin"); err != nil {
			t.Fatal(err)
		}
		h.virsh("start", "vm1")
		if err := h.port("vm1"); err != nil {
			t.Error(err)
		}
		if xml := vnetctl(t, h.Lab, "cat", "lab"); !strings.HasPrefix(xml, "<network connections='1'>") {
			t.Errorf("the network does not count its guest:\n%s", xml)
		}
		measured := nstest.Exec(t, "curl", "-sSf", "http://127.0.0.1:9753/metrics")
		if err := story.Contains("the metrics", measured, `vnetd_network_ports{network="lab"} 1`, `network="lab",name="vm1",mac="52:54:00:00:00:11"`); err != nil {
			t.Error(err)
		}
		h.leased()

		// libvirtd and vnetd end and come back under the guest.
		h.Restart()
		h.leased()
		if err := h.port("vm1"); err != nil {
			t.Error(err)
		}

		// Hot-plug, and what virsh detaches ends at once.
		const second = "52:54:00:00:00:12"
		h.virsh("attach-interface", "vm1", "network", "lab", "--mac", second, "--model", "virtio")
		if err := h.port(second); err != nil {
			t.Error(err)
		}
		h.virsh("destroy", "vm1")
		if err := h.port("vm1"); err == nil {
			t.Error("the ports of a guest that was destroyed are left")
		}

		// Without its network the guest does not start, and libvirtd says why.
		vnetctl(t, h.Lab, "stop", "lab")
		h.mirrors("lab inactive no")
		if out, err := h.Virsh("", "start", "vm1"); err == nil || !strings.Contains(out, "network 'lab' is not active") {
			t.Errorf("starting a guest without its network: %v", err)
		}
		if out, err := h.Virsh("", "net-start", "lab"); err == nil || !strings.Contains(out, "vnetctl start lab") {
			t.Errorf("starting a mirror whose network is inactive: %v: %s", err, out)
		}
		vnetctl(t, h.Lab, "start", "lab")
		h.mirrors("lab active no")
		h.virsh("start", "vm1")
		h.leased()

		// Somebody takes the mirror away under the guest: it comes back, with the lease.
		h.virsh("net-destroy", "lab")
		h.virsh("net-undefine", "lab")
		h.mirrors("lab active no")
		h.leased()
	})
}

// leased awaits the guest's lease and name in all places.
func (h mirrorHost) leased() {
	h.t.Helper()
	if err := os.WriteFile("/etc/nsswitch.conf", []byte("hosts: files libvirt libvirt_guest dns\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	nstest.Eventually(h.t, limit, "finding the guest's lease", func() error {
		for _, c := range []struct {
			argv []string
			says []string
		}{
			{[]string{"virsh", "net-dhcp-leases", "lab"}, []string{"52:54:00:00:00:11", "ipv4", "198.51.100.1", "web1"}},
			{[]string{"virsh", "domifaddr", "vm1", "--source", "lease"}, []string{"52:54:00:00:00:11", "ipv4", "198.51.100.1"}},
			{[]string{"getent", "hosts", "web1"}, []string{"198.51.100.1"}},
			{[]string{"getent", "hosts", "vm1"}, []string{"198.51.100.1"}},
		} {
			cmd := exec.Command(c.argv[0], c.argv[1:]...)
			cmd.Env = append(os.Environ(), "LC_ALL=C", "VIRSH_DEFAULT_CONNECT_URI=qemu:///system")
			out, err := cmd.CombinedOutput()
			if err := errors.Join(err, story.Contains(strings.Join(c.argv, " "), string(out), c.says...)); err != nil {
				return err
			}
		}
		return nil
	})
}

// TestMirrorWithoutLibvirtd holds that a host without a libvirtd in one piece is told
// so and left as it is, and that who keeps mirrors in step waits for either daemon.
func TestMirrorWithoutLibvirtd(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		define := func(name, bridge, subnet string) {
			t.Helper()
			if err := l.VnetctlInput(t.Context(), networkDocumentOf(name, bridge, subnet), "define", "-").Err(); err != nil {
				t.Fatal(err)
			}
		}
		define("lab", "virbr7", "198.51.100")
		refused := func(command, why string) {
			t.Helper()
			if r := l.Vnetctl(t.Context(), "mirror-libvirt", command); r.Code != 1 || !strings.Contains(r.Stderr, why) {
				t.Errorf("vnetctl mirror-libvirt %s: exit code %d, want a word of %q:\n%s", command, r.Code, why, r.Stderr)
			}
		}
		refused("on", "libvirtd does not answer")
		refused("off", "libvirtd does not answer")
		const virtqemud = "/run/libvirt/virtqemud-sock"
		if err := errors.Join(os.MkdirAll(filepath.Dir(virtqemud), 0o755), os.WriteFile(virtqemud, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		refused("on", "virtqemud needs no mirror")
		if _, err := os.Stat(mirrorHookPath); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("there is a hook: %v", err)
		}

		h := mirrorHost{Lab: l, t: t}
		h.follow()
		h.Libvirtd = l.StartLibvirtd()
		h.mirrors("lab inactive no")
		if err := v.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.virsh("net-undefine", "lab")
		l.StartVnetd()
		h.mirrors("lab inactive no")
		vnetctl(t, l, "undefine", "lab")
		h.mirrors()
	})
}
