package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// heldXML is a network that is held in both directions, with a group of ports.
const heldXML = `<network>
  <name>held</name><forward mode='open'/><bridge name='virbr7'/>
  <bandwidth><inbound average='12500'/><outbound average='1250'/></bandwidth>
  <ip address='192.0.2.1' netmask='255.255.255.0'/>
  <portgroup name='slow'><bandwidth><inbound average='125'/><outbound average='125'/></bandwidth></portgroup>
</network>
`

// debiansMachine boots a guest with Debian's kernel, which has the modules of traffic control
// but has not loaded them, and with the tests of package tc.
func debiansMachine(t *testing.T) machine {
	t.Helper()
	l := nstest.NewLab(t)
	tests := filepath.Join(t.TempDir(), "tc.test")
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", tests, "./pkg/bridge/tc")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the tests of package tc: %v\n%s", err, out)
	}
	return machine{nstest.BootGuest(t, nstest.GuestConfig{
		Name: "host", Memory: 512, CPUs: 2,
		Initrd: nstest.GuestInitrd(t, nstest.GuestFiles{
			Programs: []string{"dbus-daemon", "ip", "tc", "nft", "iperf3", "ss", tests, filepath.Join(l.Bin, "vnetd"), filepath.Join(l.Bin, "vnetctl")},
			Modules:  []string{"llc", "stp", "bridge", "tun", "veth", "nfnetlink", "libcrc32c", "nf_tables", "nf_dup_netdev", "nft_fwd_netdev", "ifb", "sch_htb", "cls_u32", "sch_ingress"},
			Texts:    map[string]string{"/etc/passwd": "root:x:0:0::/:/bin/sh\n", "/bus.conf": nstest.BusConfig, "/held.xml": heldXML},
		}),
	}), t}
}

// load loads modules, in order.
func (m machine) load(modules string) {
	m.run("for i in %s; do insmod /modules/$i.ko || exit 1; done", modules)
}

// holds runs tests of package tc.
func (m machine) holds(tests string) {
	ctx, cancel := context.WithTimeout(m.t.Context(), 3*limit)
	defer cancel()
	out, status, err := m.Run(ctx, "tc.test -test.v -test.parallel 1 -test.run '"+tests+"'")
	if m.t.Log(out); err != nil || status != 0 {
		m.t.Errorf("the tests of package tc: status %d, %v", status, err)
	}
}

// TestBandwidthOnDebiansKernel has vnetd name each module that is missing, until all are there.
// What package tc makes of devices is there as well.
func TestBandwidthOnDebiansKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		m := debiansMachine(t)
		m.load("llc stp bridge tun veth nfnetlink libcrc32c nf_tables")
		startVnetd(m)
		m.run("vnetctl define /held.xml")
		for _, module := range []string{"sch_htb", "ifb", "nft_fwd_netdev"} {
			m.has("vnetctl start held 2>&1; true", "the kernel lacks a module, "+module)
			if left := m.run("/bin/ip -br link"); strings.Contains(left, "virbr7") || strings.Contains(left, "ifb-") {
				t.Errorf("left of a network that was not started:\n%s", left)
			}
			if module == "nft_fwd_netdev" {
				m.load("nf_dup_netdev")
			}
			m.load(module)
		}
		m.run("vnetctl start held && vnetctl port create held --lifetime persistent --ifname slow0 --portgroup slow")
		m.has("tc class show dev virbr7", "766e:1 root", "766e:2 parent 766e:1")
		m.has("tc qdisc show dev slow0", "fq_codel")
		m.has("vnetctl port set slow0 inbound.floor=1250 2>&1; true", "the kernel lacks a module, cls_u32")
		m.has("vnetctl port show slow0", "bandwidth:   inbound.average=125 outbound.average=125\n")
		m.load("cls_u32 sch_ingress")
		m.run("vnetctl port set slow0 inbound.floor=1250 outbound.average=250")
		m.has("tc class show dev virbr7", "766e:3 parent 766e:1")
		m.run("vnetctl port delete slow0 && vnetctl stop held")
		if left := m.run("/bin/ip -br link; nft list ruleset"); strings.Contains(left, "ifb-") || strings.Contains(left, "chain device") {
			t.Errorf("left behind:\n%s", left)
		}
		m.holds("Everything|Others|Sweep")
	})
}

// TestRatesOnDebiansKernel measures what limits and floors hold there. It is not for a machine
// that is busy: the guest is emulated.
func TestRatesOnDebiansKernel(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		m := debiansMachine(t)
		m.load("llc stp bridge tun veth nfnetlink libcrc32c nf_tables sch_htb ifb nf_dup_netdev nft_fwd_netdev cls_u32 sch_ingress")
		m.holds("Rates|Floors")
	})
}
