package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// The networks that libvirt runs: one that is NATed, and a routed one with names
// and both families.
const (
	libvirtDefault = `<network><name>default</name><forward mode='nat'/><bridge name='virbr0'/>
<ip address='192.168.122.1' netmask='255.255.255.0'><dhcp><range start='192.168.122.2' end='192.168.122.254'/></dhcp></ip></network>`
	libvirtRouted = `<network><name>routed</name><forward mode='route'/><bridge name='virbr7'/><domain name='routed.test' localOnly='yes'/>
<ip address='10.77.0.1' netmask='255.255.255.0'><dhcp><range start='10.77.0.100' end='10.77.0.199'/>
<host mac='52:54:00:77:00:10' name='db' ip='10.77.0.10'/></dhcp></ip>
<ip family='ipv6' address='fd77::1' prefix='64'><dhcp><range start='fd77::100' end='fd77::1ff'/></dhcp></ip></network>`
	libvirtIdle  = `<network><name>idle</name><bridge name='virbr8'/><ip address='10.78.0.1' netmask='255.255.255.0'/></network>`
	libvirtOther = `<network><name>other</name><bridge name='virbr9'/><ip address='10.79.0.1' netmask='255.255.255.0'>
<dhcp><range start='10.79.0.2' end='10.79.0.2'/></dhcp></ip></network>`
	libvirtPort = `<networkport><uuid>5d744f21-ba4a-4d6e-bdb2-30a35ff3207d</uuid>
<owner><name>web1</name><uuid>3e1e2d5c-5c14-4f5e-9a57-0a3a3b6a8f01</uuid></owner><mac address='52:54:00:aa:00:01'/></networkport>`
)

// libvirtd is a real libvirtd that has only its network driver.
type libvirtd struct {
	t   *testing.T
	cmd *exec.Cmd
	log *bytes.Buffer
}

// startLibvirtd starts libvirtd in the lab and waits until it answers.
func startLibvirtd(t *testing.T) *libvirtd {
	t.Helper()
	// Without its QEMU driver, which asks each QEMU of the machine what it can.
	const drivers = "/run/lab/drivers"
	found, err := filepath.Glob("/usr/lib/*/libvirt/connection-driver/libvirt_driver_network.so")
	if err != nil || len(found) != 1 {
		t.Fatalf("libvirt's network driver is needed (package libvirt-daemon): %v, %v", found, err)
	}
	for _, dir := range []string{drivers, "/var/lib/libvirt/dnsmasq", "/run/lab/cache", "/run/lab/log", "/etc/libvirt/qemu/networks/autostart"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(drivers, filepath.Base(found[0]))
	if err := os.Symlink(found[0], link); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"/run/lab/cache": "/var/cache", "/run/lab/log": "/var/log"} {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	d := &libvirtd{t: t, log: new(bytes.Buffer), cmd: exec.Command("libvirtd")}
	d.cmd.Env = append(os.Environ(), "LIBVIRT_DRIVER_DIR="+drivers)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	nstest.Eventually(t, limit, "libvirtd answers", func() error {
		out, err := exec.CommandContext(t.Context(), "virsh", "-c", "network+unix:///system?socket=/run/libvirt/libvirt-sock", "net-list").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	return d
}

// virsh runs a command on libvirtd that must succeed.
func (d *libvirtd) virsh(args ...string) string {
	d.t.Helper()
	args = append([]string{"-c", "network+unix:///system?socket=/run/libvirt/libvirt-sock"}, args...)
	return nstest.Exec(d.t, "virsh", args...)
}

// network defines a network and has it start with the host.
func (d *libvirtd) network(name, xml string) {
	d.t.Helper()
	d.virsh("net-define", d.file(name, xml))
	d.virsh("net-autostart", name)
}

func (d *libvirtd) file(name, xml string) string {
	d.t.Helper()
	file := filepath.Join(d.t.TempDir(), name+".xml")
	if err := os.WriteFile(file, []byte(xml), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// stop ends libvirtd as its unit does: what it made stays.
func (d *libvirtd) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(unix.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Wait(); err != nil {
		d.t.Fatalf("libvirtd ended with %v:\n%s", err, d.log)
	}
}

// talk is a TCP connection from a guest to the LAN on which every word is answered.
type talk struct {
	end func()

	mu    sync.Mutex
	words int
	err   error
}

// startTalk has a guest begin to talk.
func startTalk(t *testing.T, l *nstest.Lab, guest *nstest.NS) *talk {
	t.Helper()
	var server net.Listener
	err := l.LAN.Do(func() (err error) {
		server, err = net.Listen("tcp", net.JoinHostPort(nstest.LANHost, "7"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	if err := guest.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", server.Addr().String(), limit)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	peer, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _, _ = io.Copy(peer, peer) })
	k := new(talk)
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { k.keepOn(ctx, conn) })
	k.end = sync.OnceFunc(func() {
		cancel()
		// Each end by itself: the way between them may be gone.
		_ = errors.Join(conn.Close(), peer.Close(), server.Close())
		running.Wait()
	})
	t.Cleanup(k.end)
	return k
}

// keepOn says a word after the other until ctx ends or one is not answered.
func (k *talk) keepOn(ctx context.Context, conn net.Conn) {
	for ctx.Err() == nil {
		answer := make([]byte, 4)
		_, err := conn.Write([]byte("word"))
		if err == nil {
			err = conn.SetReadDeadline(time.Now().Add(limit))
		}
		if err == nil {
			_, err = io.ReadFull(conn, answer)
		}
		k.mu.Lock()
		if k.words++; err != nil && ctx.Err() == nil {
			k.err = err
		}
		k.mu.Unlock()
		if err != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// goesOn waits for a word that is answered after now.
func (k *talk) goesOn(t *testing.T, when string) {
	t.Helper()
	k.mu.Lock()
	before := k.words
	k.mu.Unlock()
	nstest.Eventually(t, limit, "an answer "+when, func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.err != nil {
			t.Fatalf("the guest's connection %s: %v", when, k.err)
		}
		if k.words < before+2 {
			return errors.New("no answer yet")
		}
		return nil
	})
}

// dnsmasqs counts the processes that serve libvirt's networks.
func dnsmasqs(t *testing.T) (n int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if text, err := os.ReadFile(line); err == nil && strings.Contains(string(text), "--conf-file=/var/lib/libvirt/dnsmasq/") {
			n++
		}
	}
	return n
}

// importer is a host on which libvirt ran two networks, with guests at work.
type importer struct {
	*nstest.Lab
	t         *testing.T
	web, db   *nstest.NS // on default, and on routed with a reserved address
	address   string     // of web
	*talk                // from web to the LAN
	libvirtd  *libvirtd
	dnsmasqs  int // of libvirt, with helpers
	addresses string
}

// newImporter has a real libvirtd make networks and guests get their leases there.
func newImporter(t *testing.T) *importer {
	t.Helper()
	i := &importer{Lab: nstest.NewLab(t), t: t, dnsmasqs: 4}
	// What packages put there, a default network above all.
	if err := os.RemoveAll("/etc/libvirt"); err != nil {
		t.Fatal(err)
	}
	d := startLibvirtd(t)
	d.network("default", libvirtDefault)
	d.network("routed", libvirtRouted)
	d.virsh("net-define", d.file("idle", libvirtIdle))
	d.virsh("net-start", "default")
	d.virsh("net-start", "routed")
	d.virsh("net-port-create", "default", d.file("port", libvirtPort))
	nstest.IP(t, "tuntap add vnet0 mode tap")
	nstest.IP(t, "link set vnet0 address fe:54:00:aa:00:01 master virbr0 up")
	i.libvirtd = d
	i.web, i.db = nstest.Guest(t, "virbr0", "web", "52:54:00:aa:00:02"), nstest.Guest(t, "virbr7", "db", "52:54:00:77:00:10")
	i.address = leaseOf(t, i.web, "web")
	if got := leaseOf(t, i.db, "db"); got != "10.77.0.10" {
		t.Fatalf("libvirt gives the reserved guest %s", got)
	}
	i.web.IP("route add default via 192.168.122.1")
	i.talk = startTalk(t, i.Lab, i.web)
	i.goesOn(t, "while libvirtd runs")
	i.addresses = identities(nstest.Exec(t, "ip", "-d", "addr"))
	return i
}

// TestImportLibvirt has a real libvirtd make networks, ends it, and has vnetd take
// them over under guests that are at work.
func TestImportLibvirt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		i := newImporter(t)
		const config = "/run/vnetd.toml"
		if err := os.WriteFile(config, []byte("[libvirt]\nsocket = '"+libvirtSocket+"'\npolkit = false\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		v := i.StartVnetd("--config", config)
		i.refusedWhileAlive()
		i.libvirtd.stop()
		i.planned()
		vnetctl(t, i.Lab, "import-libvirt")
		i.goesOn(t, "after the take-over")
		i.takenOver()
		i.known()
		i.again()
		i.backOfLibvirtd()
		i.goesOn(t, "beside the libvirtd that came back")

		// Another vnetd finds all of it as its own.
		left, err := v.Leave(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		i.StartVnetdWith(left, "--config", config)
		i.goesOn(t, "after a restart of vnetd")
		if n := networks(t)["default"]; n.State != "active" || !n.Autostart {
			t.Errorf("after a restart the network is %+v", n)
		}
		vnetctl(t, i.Lab, "stop", "default")
		if got := rules(t, "iptables-save"); strings.Contains(got, "virbr0") || strings.Contains(got, "192.168.122.") {
			t.Errorf("rules of the stopped network are left:\n%s", got)
		}
	})
}

// planned holds that a dry run says what would be done, and does nothing.
func (i *importer) planned() {
	i.t.Helper()
	if n := dnsmasqs(i.t); n != i.dnsmasqs {
		i.t.Fatalf("libvirt leaves %d dnsmasq behind, two for each network", n)
	}
	plan := vnetctl(i.t, i.Lab, "import-libvirt", "--dry-run")
	for _, says := range []string{
		"default: would go on as vnetd's, bridge virbr0, starts with the host, ports: 1, leases: 1, libvirt's dnsmasq",
		"routed: would go on as vnetd's, bridge virbr7, starts with the host, leases: 1, libvirt's dnsmasq",
		"idle: would be defined, bridge virbr8\n",
		"  port 5d744f21-ba4a-4d6e-bdb2-30a35ff3207d of web1, 52:54:00:aa:00:01\n",
	} {
		if !strings.Contains(plan, says) {
			i.t.Errorf("the plan does not say %q:\n%s", says, plan)
		}
	}
	if n := len(networks(i.t)); n != 0 || dnsmasqs(i.t) != i.dnsmasqs {
		i.t.Errorf("after a dry run there are %d networks and %d dnsmasq", n, dnsmasqs(i.t))
	}
}

// takenOver holds that guests have from vnetd what they had from libvirt.
func (i *importer) takenOver() {
	t := i.t
	t.Helper()
	if n := dnsmasqs(t); n != 0 {
		t.Errorf("%d dnsmasq of libvirt's still run", n)
	}
	same(t, "links and their addresses", i.addresses, identities(nstest.Exec(t, "ip", "-d", "addr")))
	for _, guest := range []struct {
		ns                    *nstest.NS
		name, server, address string
	}{{i.web, "web", "192.168.122.1", i.address}, {i.db, "db.routed.test", "10.77.0.1", "10.77.0.10"}} {
		if got := leaseOf(t, guest.ns, guest.ns.Name); got != guest.address {
			t.Errorf("guest %s had %s and gets %s", guest.ns.Name, guest.address, got)
		}
		if got := strings.TrimSpace(guest.ns.Exec("dig", "+short", "@"+guest.server, guest.name)); got != guest.address {
			t.Errorf("the name %s is %q, want %s", guest.name, got, guest.address)
		}
	}
}

// known holds that vnetd's list of ports and virsh show what was taken over.
func (i *importer) known() {
	t := i.t
	t.Helper()
	nstest.Eventually(t, limit, "the TAP of libvirt's port is found", func() error {
		all := ports(t)
		if len(all) != 1 || all[0].Name != "web1" || all[0].IfName != "vnet0" || all[0].OwnerUUID != "3e1e2d5c-5c14-4f5e-9a57-0a3a3b6a8f01" {
			return fmt.Errorf("ports are %+v", all)
		}
		return nil
	})
	out, err := virsh(t, "root", "net-list", "--all")
	for _, row := range []string{"default active yes yes", "routed active yes yes", "idle inactive no yes"} {
		if err != nil || !strings.Contains(strings.Join(strings.Fields(out), " "), row) {
			t.Errorf("virsh does not list %q (%v):\n%s", row, err, out)
		}
	}
}

// refusedWhileAlive holds that nothing is taken from a libvirtd that runs.
func (i *importer) refusedWhileAlive() {
	t := i.t
	t.Helper()
	r := i.Vnetctl(t.Context(), "import-libvirt")
	if r.Code != 5 || !strings.Contains(r.Stderr, "libvirt's network driver runs (process ") || len(networks(t)) != 0 || dnsmasqs(t) != i.dnsmasqs {
		t.Errorf("while libvirtd runs: exit code %d, %d networks, %d dnsmasq: %s", r.Code, len(networks(t)), dnsmasqs(t), r.Stderr)
	}
	stranger := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", filepath.Join(i.Bin, "vnetctl"), "import-libvirt", "--dry-run")
	if out, _ := stranger.CombinedOutput(); stranger.ProcessState.ExitCode() != 4 || !strings.Contains(string(out), "for root alone") {
		t.Errorf("for who is not root: %v: %s", stranger.ProcessState, out)
	}
	if r := i.Vnetctl(t.Context(), "import-libvirt", "--dry-run"); r.Code != 5 || !strings.Contains(r.Stdout, "default: would go on") {
		t.Errorf("a dry run while libvirtd runs: exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
}

// identities are the lines of "ip -d addr" that name links, their addresses and MACs.
func identities(listing string) string {
	var b strings.Builder
	for line := range strings.Lines(listing) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case strings.HasPrefix(f[0], "inet"), strings.HasPrefix(f[0], "link/"):
			b.WriteString(f[0] + " " + f[1] + "\n")
		case !strings.HasPrefix(line, " "):
			b.WriteString(f[0] + " " + f[1] + "\n")
		}
	}
	return b.String()
}

// again holds that a second import changes nothing.
func (i *importer) again() {
	t := i.t
	t.Helper()
	before := state(t)
	var said struct {
		Networks []struct{ Name, Action, Error string }
	}
	if err := json.Unmarshal([]byte(vnetctl(t, i.Lab, "import-libvirt", "--json")), &said); err != nil {
		t.Fatal(err)
	}
	if len(said.Networks) != 3 {
		t.Errorf("the second time: %+v", said)
	}
	for _, n := range said.Networks {
		if n.Action != "present" || n.Error != "" {
			t.Errorf("the second time network %s is %+v", n.Name, n)
		}
	}
	same(t, "a second import", before, state(t))
}

// backOfLibvirtd starts libvirtd again, as for its guests, and ends it: it has the
// networks, inactive, and leaves vnetd's alone.
func (i *importer) backOfLibvirtd() {
	t := i.t
	t.Helper()
	before := state(t)
	d := startLibvirtd(t)
	list := strings.Join(strings.Fields(d.virsh("net-list", "--all")), " ")
	for _, row := range []string{"default inactive no yes", "routed inactive no yes", "idle inactive no yes"} {
		if !strings.Contains(list, row) {
			t.Errorf("the libvirtd that came back does not list %q: %s", row, list)
		}
	}
	if n := dnsmasqs(t); n != 0 {
		t.Errorf("the libvirtd that came back started %d dnsmasq", n)
	}
	// What vnetd has not, libvirt may have beside it.
	d.virsh("net-create", d.file("other", libvirtOther))
	if got := leaseOf(t, nstest.Guest(t, "virbr9", "other", ""), "other"); got != "10.79.0.2" {
		t.Errorf("a guest of libvirt's beside vnetd gets %q", got)
	}
	nstest.IP(t, "link del v-other")
	d.virsh("net-destroy", "other")
	d.stop()
	same(t, "a libvirtd that came and went", before, state(t))
}
