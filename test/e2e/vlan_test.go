package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// vlanXML is a LAN whose switch has VLANs, and groups of ports in them.
const vlanXML = `<network xmlns:vnetd='urn:vnetd:network:1'>
  <name>lan</name><forward mode='bridge'/><bridge name='br0'/><vnetd:uplink dev='up0'/>
  <portgroup name='none' default='yes'/>
  <portgroup name='access'><vlan><tag id='42'/></vlan></portgroup>
  <portgroup name='other'><vlan><tag id='43'/></vlan></portgroup>
  <portgroup name='trunk'><vlan trunk='yes'><tag id='42'/><tag id='43'/></vlan></portgroup>
  <portgroup name='native'><vlan trunk='yes'><tag id='42' nativeMode='untagged'/><tag id='43'/></vlan></portgroup>
</network>
`

// vlanFiles are those of a machine whose kernel has bridges with VLANs.
func vlanFiles(t *testing.T) nstest.GuestFiles {
	files := nstest.GuestFiles{
		Modules: []string{"llc", "stp", "bridge", "garp", "mrp", "8021q", "veth", "tun", "tls", "libcrc32c", "nfnetlink", "nf_tables", "nft_limit"},
		Texts:   map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig, "/lan.xml": vlanXML},
	}
	if root, err := nstest.Root(); err == nil { // not in the guest
		files.Programs = []string{"dbus-daemon", filepath.Join(root, "bin", "vnetd"), filepath.Join(root, "bin", "vnetctl")}
	}
	return files
}

// speaker is how a guest speaks behind a port of a group: with a tag, or without (0).
type speaker struct {
	group string
	tag   int
}

func (s speaker) String() string { return fmt.Sprintf("%s/%d", s.group, s.tag) }

// stations are whom they speak with: guests in a VLAN, this host, and hosts of the LAN in no
// VLAN and in two.
var stations = []string{"guest42", "guest43", "host", "lan", "lan42", "lan43"}

// reached says of each speaker which stations answer it, by whatever protocol.
var reached = map[speaker][]string{
	{"access", 0}: {"guest42", "lan42"}, {"access", 42}: nil, {"access", 43}: nil,
	{"trunk", 0}: nil, {"trunk", 42}: {"guest42", "lan42"}, {"trunk", 43}: {"guest43", "lan43"},
	{"native", 0}: {"guest42", "lan42"}, {"native", 42}: nil, {"native", 43}: {"guest43", "lan43"},
	{"none", 0}: {"host", "lan"}, {"none", 42}: nil, {"none", 43}: nil,
}

// TestVLANMatrix has guests in ports of every kind of VLAN speak, each with the tags that
// they might have, with guests, the host and the LAN, over every protocol.
func TestVLANMatrix(t *testing.T) {
	nstest.RunInGuest(t, vlanFiles(t), func(t *testing.T) {
		h := newVLANHost(t)
		var speakers []speaker
		for s := range reached {
			speakers = append(speakers, s)
		}
		h.guests(speakers)
		for protocol := range probes {
			h.round(protocol, reached)
		}
		h.kept()
		h.moved()
	})
}

// vlanHost is a machine with a switch that has VLANs behind its card, in a QEMU guest.
type vlanHost struct {
	t     *testing.T
	ns    map[string]*nstest.NS // of stations and speakers
	vnetd *exec.Cmd
}

// newVLANHost makes the LAN, and starts vnetd with a network on it.
func newVLANHost(t *testing.T) *vlanHost {
	t.Helper()
	h := &vlanHost{t: t, ns: make(map[string]*nstest.NS)}
	nstest.IP(t, "link add up0 type veth peer name lan0")
	nstest.IP(t, "addr add "+address4(3).String()+"/16 dev up0")
	nstest.IP(t, "addr add "+address6(3).String()+"/64 dev up0 nodad")
	nstest.IP(t, "link set up0 up")
	nstest.IP(t, "link set lan0 up")
	h.station("", "lan", "lan0", 4)
	for i, id := range []int{42, 43} {
		h.station("lan", fmt.Sprintf("lan%d", id), h.tagged("lan", id), 5+i)
	}
	h.exec("sh", "-c", "mkdir -p /run/dbus && ln -sfn /run /var/run && dbus-daemon --config-file=/bus.conf --fork --nopidfile >/dev/null 2>&1")
	h.start()
	h.exec("vnetctl", "define", "/lan.xml")
	h.exec("vnetctl", "start", "lan")
	if err := serveDHCP(t, "br0", address4(3)); err != nil {
		t.Fatal(err)
	}
	return h
}

// start starts vnetd, and waits until it answers.
func (h *vlanHost) start() {
	h.t.Helper()
	cmd := exec.Command("vnetd")
	log, err := os.OpenFile("/tmp/vnetd.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if text, _ := os.ReadFile("/tmp/vnetd.log"); h.t.Failed() {
			h.t.Logf("vnetd:\n%s", text)
		}
	})
	nstest.Eventually(h.t, limit, "vnetd answers", func() error { return exec.Command("vnetctl", "list").Run() })
	h.vnetd = cmd
}

func (h *vlanHost) exec(name string, args ...string) string {
	h.t.Helper()
	return nstest.Exec(h.t, name, args...)
}

// tagged makes the device of a VLAN on eth0 of a namespace.
func (h *vlanHost) tagged(ns string, id int) (device string) {
	h.t.Helper()
	device = fmt.Sprintf("eth0.%d", id)
	nstest.IP(h.t, fmt.Sprintf("-n %s link add %s link eth0 type vlan id %d", ns, device, id))
	return device
}

// station puts a device of a namespace, the test's own for "", into one of its own, as
// eth0.
func (h *vlanHost) station(from, name, device string, number int) {
	h.t.Helper()
	ns := nstest.NewNS(h.t, name)
	if from != "" {
		from = "-n " + from + " "
	}
	nstest.IP(h.t, from+"link set "+device+" netns "+name)
	ns.IP("link set " + device + " name eth0")
	h.settle(ns, number)
}

// settle gives a namespace addresses by its number. Stations serve DHCP.
func (h *vlanHost) settle(ns *nstest.NS, number int) {
	h.t.Helper()
	h.ns[ns.Name] = ns
	ns.IP(fmt.Sprintf("addr add %v/16 dev eth0", address4(number)))
	ns.IP("link set eth0 up")
	ns.IP(fmt.Sprintf("addr add %v/64 dev eth0 nodad", address6(number)))
	if number > len(stations) {
		return
	}
	if err := ns.Do(func() error { return serveDHCP(h.t, "eth0", address4(number)) }); err != nil {
		h.t.Fatal(err)
	}
}

// guests makes the ports of all speakers and of the stations that are guests.
func (h *vlanHost) guests(speakers []speaker) {
	h.t.Helper()
	h.guest("guest42", "p42", "access", 1)
	h.guest("guest43", "p43", "other", 2)
	number := 100
	for _, group := range []string{"access", "trunk", "native", "none"} {
		base := speaker{group, 0}.name()
		h.guest(base, "p-"+group, group, number)
		for _, s := range speakers {
			if number++; s.group == group && s.tag != 0 {
				h.station(base, s.name(), h.tagged(base, s.tag), number)
			}
		}
		number++
	}
}

// name is the namespace of a speaker.
func (s speaker) name() string { return fmt.Sprintf("%s-%d", s.group, s.tag) }

// guest makes a port of a group, and the machine behind it.
func (h *vlanHost) guest(name, port, group string, number int) {
	h.t.Helper()
	h.exec("vnetctl", "port", "create", "lan", "--lifetime", "persistent", "--ifname", port, "--portgroup", group, "--mac", fmt.Sprintf("52:54:00:00:00:%02x", number))
	tap, err := nstest.OpenTAP(port)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = tap.Close() })
	h.settle(nstest.Machine(h.t, name, fmt.Sprintf("52:54:00:00:00:%02x", number), tap), number)
}

// round has speakers ask all stations at once by one protocol.
func (h *vlanHost) round(protocol string, reached map[speaker][]string) {
	h.t.Helper()
	var all sync.WaitGroup
	for s, want := range reached {
		all.Go(func() {
			got, err := answers(h.ns[s.name()], protocol, want)
			if err != nil {
				h.t.Errorf("%s from %v: %v", protocol, s, err)
			}
			for _, station := range stations {
				if wanted := slices.Contains(want, station); got[station] != wanted {
					h.t.Errorf("%s from %v to %s: answered %v, want %v", protocol, s, station, got[station], wanted)
				}
			}
		})
	}
	all.Wait()
}

// table is what bridge(8) shows of the VLANs of a port.
func (h *vlanHost) table(port string) string {
	h.t.Helper()
	out := strings.Fields(h.exec("bridge", "vlan", "show", "dev", port))
	if i := slices.Index(out, port); i >= 0 {
		out = out[i+1:]
	}
	return strings.Join(out, " ")
}

// has waits until a port has those VLANs.
func (h *vlanHost) has(when, port, want string) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, when+", the VLANs of "+port, func() error {
		if got := h.table(port); got != want {
			return fmt.Errorf("%s, want %s", got, want)
		}
		return nil
	})
}

// kept holds that the tables are put back that somebody changes, and outlive vnetd.
func (h *vlanHost) kept() {
	h.t.Helper()
	const access, uplink = "42 PVID Egress Untagged", "1 PVID Egress Untagged 42 43"
	h.has("at first", "p-access", access)
	h.has("at first", "up0", uplink)
	h.exec("bridge", "vlan", "add", "dev", "p-access", "vid", "43")
	h.has("after one was added", "p-access", access)
	h.exec("bridge", "vlan", "del", "dev", "up0", "vid", "42")
	h.has("after one was taken", "up0", uplink)
	h.exec("bridge", "vlan", "add", "dev", "p-none", "vid", "43", "pvid", "untagged")
	h.has("after one was added", "p-none", "1 PVID Egress Untagged")
	nstest.IP(h.t, "link set br0 type bridge vlan_filtering 0 mcast_snooping 1")
	h.shows("put back", "br0", "vlan_filtering 1", "mcast_snooping 0")
	end(h.t, h.vnetd)
	h.exec("bridge", "vlan", "add", "dev", "p-access", "vid", "43")
	h.start()
	h.has("after a restart", "p-access", access)
	h.has("after a restart", "up0", uplink)
}

// end ends vnetd as systemd does.
func end(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
}

// shows waits until ip(8) shows all words of a link.
func (h *vlanHost) shows(when, link string, words ...string) {
	h.t.Helper()
	nstest.Eventually(h.t, limit, when+", "+link, func() error {
		out := nstest.IP(h.t, "-d link show "+link)
		for _, word := range words {
			if !strings.Contains(out, word) {
				return fmt.Errorf("lacks %q: %s", word, out)
			}
		}
		return nil
	})
}

// moved holds that ports follow their network's document.
func (h *vlanHost) moved() {
	h.t.Helper()
	h.exec("vnetctl", "update", "lan", "modify", "portgroup", "<portgroup name='access'><vlan><tag id='43'/></vlan></portgroup>")
	h.has("after an update", "p-access", "43 PVID Egress Untagged")
	h.round("IPv4", map[speaker][]string{{"access", 0}: {"guest42", "guest43", "lan43"}}) // guest42 is of the same group
	h.exec("vnetctl", "port", "set", "p-access", "portgroup=native")
	h.has("in another group", "p-access", "42 PVID Egress Untagged 43")
	h.exec("vnetctl", "port", "set", "p-access", "vlan=trunk:7,native-tagged=42")
	h.has("with VLANs of its own", "p-access", "7 42 PVID")
	h.has("with VLANs of its own", "up0", "1 PVID Egress Untagged 7 42 43")
	h.exec("vnetctl", "port", "set", "p-access", "vlan=", "portgroup=none")
	h.has("in no VLAN", "p-access", "1 PVID Egress Untagged")
	h.round("IPv4", map[speaker][]string{{"access", 0}: {"host", "lan"}})
}
