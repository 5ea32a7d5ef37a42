package network_test

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network"
)

// libvirtDefault is the network default as libvirtd 9.0.0 wrote it down while it was
// active, with one port and one lease that never ends.
func libvirtDefault(t *testing.T) api.Takeover {
	t.Helper()
	file := func(path string) string {
		text, err := os.ReadFile(filepath.Join("../../test/testdata/libvirt", path))
		must(t, err)
		return string(text)
	}
	return api.Takeover{
		Definition: file("etc/libvirt/qemu/networks/default.xml"),
		Status:     file("run/libvirt/network/default.xml"),
		Ports:      []string{file("run/libvirt/network/default/ports/5d744f21-ba4a-4d6e-bdb2-30a35ff3207d.xml")},
		Leases: `[{"ip-address": "192.168.122.254", "mac-address": "52:54:00:aa:00:02", "hostname": "web2",
			"client-id": "01:52:54:00:aa:00:02", "expiry-time": 0}]`,
		Autostart: true,
	}
}

// libvirtBridge makes the bridge that libvirt leaves for it, with the guest's TAP.
func libvirtBridge(t *testing.T) {
	t.Helper()
	for _, args := range []string{
		"link add virbr0 address 52:54:00:6d:1e:bf type bridge stp_state 1 forward_delay 200",
		"addr add 192.168.122.1/24 brd 192.168.122.255 dev virbr0", "link set virbr0 up",
		"tuntap add vnet7 mode tap", "link set vnet7 address fe:54:00:aa:00:01 master virbr0 up",
	} {
		nstest.IP(t, args)
	}
}

// An active network of libvirt's goes on as vnetd's, and the next vnetd adopts it.
func TestTakeOver(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		libvirtBridge(t)
		root := t.TempDir()
		// As libvirt's nftables backend leaves it.
		nstest.Exec(t, "nft", "add table ip libvirt_network { chain guest_input { oif virbr0 counter reject; oif lo counter reject; }; }")
		nstest.Exec(t, "tc", "qdisc", "add", "dev", "virbr0", "root", "handle", "1:", "htb", "default", "2") // for its checksums
		nstest.Exec(t, "tc", "filter", "add", "dev", "virbr0", "prio", "2", "protocol", "ip", "parent", "1:", "u32", "match", "ip", "dport", "68", "ffff", "flowid", "1:2")
		h := newHub(t, root, hubOptions{})
		before := kernel(t)
		from := libvirtDefault(t)
		removal := "<fwRemoval><firewall><action layer='ipv4'><args><item>delete</item><item>rule</item></args></action></firewall></fwRemoval>"
		if from.Status = strings.Replace(from.Status, "<floor", removal+"<floor", 1); !strings.Contains(from.Status, removal) {
			t.Fatalf("the status has no place for <fwRemoval>:\n%s", from.Status)
		}
		plan, err := h.TakeOver(t.Context(), from, true)
		must(t, err)
		if len(h.Networks()) != 0 || kernel(t) != before {
			t.Errorf("a plan made %v:\n%s", h.Networks(), kernel(t))
		}
		taken, err := h.TakeOver(t.Context(), from, false)
		must(t, err)
		want := api.Taken{
			Name: "default", UUID: "6f72b9a6-61d8-4fab-86fa-17b25210cbcd", Bridge: "virbr0", Action: api.TakeAdopt, Autostart: true,
			Ports:  []api.TakenPort{{UUID: "5d744f21-ba4a-4d6e-bdb2-30a35ff3207d", Owner: "web1", MAC: "52:54:00:aa:00:01"}},
			Leases: 1, Refused: []string{},
		}
		if diff := cmp.Diff(want, taken); diff != "" {
			t.Errorf("taken over (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(want, plan); diff != "" {
			t.Errorf("planned (-want +got):\n%s", diff)
		}
		isTaken(t, h)
		if left := nstest.Exec(t, "nft", "list", "table", "ip", "libvirt_network"); strings.Contains(left, "virbr0") {
			t.Errorf("libvirt's rules are left:\n%s", left)
		} else if !strings.Contains(left, `"lo"`) {
			t.Errorf("rules of another bridge are gone:\n%s", left)
		}
		if left := nstest.Exec(t, "tc", "qdisc", "show", "dev", "virbr0"); strings.Contains(left, "htb") {
			t.Errorf("what libvirt filled in checksums by is left:\n%s", left)
		}
		again, err := h.TakeOver(t.Context(), libvirtDefault(t), false)
		if err != nil || again.Action != api.TakePresent || len(again.Refused) != 0 {
			t.Errorf("a second time: %+v, %v", again, err)
		}
		h.end()
		isTaken(t, newHub(t, root, hubOptions{}))
	})
}

// A network that libvirt held to a bandwidth is held by vnetd, with the floor of its guest,
// and not by both.
func TestTakeOverOfBandwidth(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		libvirtBridge(t)
		for _, command := range []string{
			"qdisc add dev virbr0 root handle 1: htb default 2", "class add dev virbr0 parent 1: classid 1:1 htb rate 8mbit",
			"class add dev virbr0 parent 1:1 classid 1:2 htb rate 8mbit", "qdisc add dev virbr0 ingress",
		} {
			nstest.Exec(t, "tc", strings.Fields(command)...)
		}
		from := libvirtDefault(t)
		from.Status = strings.Replace(from.Status, "<ip ", "<bandwidth><inbound average='1000'/><outbound average='500'/></bandwidth><ip ", 1)
		from.Ports[0] = strings.Replace(from.Ports[0], "<plug ", "<bandwidth classID='3'><inbound average='100' floor='250'/></bandwidth><plug ", 1)
		h := newHub(t, t.TempDir(), hubOptions{})
		_, err := h.TakeOver(t.Context(), from, false)
		must(t, err)
		isTaken(t, h)
		shaped(t, "virbr0", "766e:3 2Mbit", "4Mbit")
		if left := nstest.Exec(t, "tc", "qdisc", "show", "dev", "virbr0"); strings.Contains(left, "1: ") || strings.Contains(left, "ingress") {
			t.Errorf("libvirt's are left:\n%s", left)
		}
	})
}

// isTaken holds that h has what libvirtDefault says.
func isTaken(t *testing.T, h *hub) {
	t.Helper()
	n, err := h.ByName("default")
	must(t, err)
	if i := n.Info(); i.State != api.Active || !i.Persistent || !i.Autostart || i.MAC != "52:54:00:6d:1e:bf" {
		t.Errorf("the network is %+v", i)
	}
	leases, err := n.Leases()
	if err != nil || len(leases) != 1 || leases[0].Addr != netip.MustParseAddr("192.168.122.254") || leases[0].Hostname != "web2" {
		t.Errorf("leases are %+v (%v)", leases, err)
	}
	p, err := h.Ports().Find("5d744f21-ba4a-4d6e-bdb2-30a35ff3207d")
	if err != nil || p.IfName != "vnet7" || p.Name != "web1" || p.Lifetime != api.LifetimeExternal {
		t.Errorf("the port is %+v (%v)", p, err)
	}
	if got := h.master("vnet7"); got != "virbr0" {
		t.Errorf("the guest is on %q", got)
	}
	if !strings.Contains(kernel(t), "-A LIBVIRT_PRT -s 192.168.122.0/24") {
		t.Errorf("the rules are not there:\n%s", kernel(t))
	}
}

// Of an address that vnetd knows from before, the lease that runs stands.
func TestTakeOverOfKnownAddresses(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		now := time.Now()
		known := func(n byte, end time.Duration) dhcpd.Lease {
			return dhcpd.Lease{
				Addr: netip.AddrFrom4([4]byte{192, 168, 122, n}), MAC: keptMAC(n), Expiry: now.Add(end), State: dhcpd.StateBound,
			}
		}
		must(t, h.store.Leases("6f72b9a6-61d8-4fab-86fa-17b25210cbcd").Commit([]dhcpd.Lease{
			known(10, -time.Hour), known(11, time.Hour), known(12, time.Minute), known(13, 3*time.Hour),
		}, nil))
		from := libvirtDefault(t)
		from.Leases = ""
		for n, mac := range []string{"52:54:00:aa:00:02", "52:54:00:aa:00:03", keptMAC(12).String(), keptMAC(13).String()} {
			from.Leases += fmt.Sprintf("%d %s 192.168.122.%d * *\n", now.Add(2*time.Hour).Unix(), mac, 10+n)
		}
		_, err := h.TakeOver(t.Context(), from, false)
		must(t, err)
		n, err := h.ByName("default")
		must(t, err)
		leases, err := n.Leases()
		must(t, err)
		var got []string
		for _, l := range leases {
			got = append(got, fmt.Sprint(l.Addr, " ", l.MAC, " ", l.Expiry.Sub(now).Round(time.Hour)))
		}
		want := []string{
			"192.168.122.10 52:54:00:aa:00:02 2h0m0s", fmt.Sprint("192.168.122.11 ", keptMAC(11), " 1h0m0s"),
			fmt.Sprint("192.168.122.12 ", keptMAC(12), " 2h0m0s"), fmt.Sprint("192.168.122.13 ", keptMAC(13), " 3h0m0s"),
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("leases (-want +got):\n%s", diff)
		}
	})
}

// A definition that an admin copied from libvirt beforehand stays as it is, and the
// network is adopted all the same; so it is where vnetd was killed in between.
func TestTakeOverOfADefinedNetwork(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		libvirtBridge(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		from := libvirtDefault(t)
		n := h.define(strings.Replace(from.Definition, "192.168.122.254'", "192.168.122.99'", 1))
		if err := n.Start(t.Context()); network.KindOf(err) != api.Conflict {
			t.Errorf("over libvirt's bridge it starts with %v", err)
		}
		taken, err := h.TakeOver(t.Context(), from, false)
		if err != nil || taken.Action != api.TakeAdopt || !n.Info().Autostart || len(taken.Ports) != 1 {
			t.Errorf("taken over: %+v, %v", taken, err)
		}
		if !strings.Contains(string(n.XML(true)), "192.168.122.99'") || !strings.Contains(string(n.XML(false)), "192.168.122.254'") {
			t.Errorf("defined as:\n%s\nlive as:\n%s", n.XML(true), n.XML(false))
		}
	})
}

// What is not active any more is defined, with its leases, and starts if it is marked
// for that. What is transient and active stays transient.
func TestTakeOverInactiveAndTransient(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		taken, err := h.TakeOver(t.Context(), libvirtDefault(t), false)
		if err != nil || taken.Action != api.TakeDefine || !taken.Start || len(taken.Ports) != 0 || taken.Leases != 1 {
			t.Errorf("with its bridge gone: %+v, %v", taken, err)
		}
		n, err := h.ByName("default")
		must(t, err)
		if leases, err := n.Leases(); err != nil || len(leases) != 1 || n.Info().State != api.Active {
			t.Errorf("it is %+v with leases %v (%v)", n.Info(), leases, err)
		}
		must(t, n.Stop(t.Context()))
		must(t, n.Undefine(t.Context()))
		libvirtBridge(t)
		transient := libvirtDefault(t)
		transient.Definition = ""
		taken, err = h.TakeOver(t.Context(), transient, false)
		if err != nil || taken.Action != api.TakeAdopt || taken.Autostart {
			t.Errorf("transient: %+v, %v", taken, err)
		}
		n, err = h.ByName("default")
		must(t, err)
		if n.Info().Persistent {
			t.Error("a transient network has become persistent")
		}
		must(t, n.Stop(t.Context()))
		if len(h.Networks()) != 0 {
			t.Errorf("after its stop there is %+v", h.Networks()[0].Info())
		}
	})
}

// A server of libvirt's that still runs keeps nothing else from going on, and when it
// is gone vnetd serves.
func TestTakeOverBesideDnsmasq(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		libvirtBridge(t)
		dnsmasq := exec.Command("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--interface=virbr0",
			"--except-interface=lo", "--bind-dynamic", "--dhcp-range=192.168.122.2,192.168.122.254", "--leasefile-ro", "--pid-file=")
		must(t, dnsmasq.Start())
		ended := false
		end := func() {
			if !ended {
				ended = true
				_ = dnsmasq.Process.Kill()
				_ = dnsmasq.Wait()
			}
		}
		defer end()
		nstest.Eventually(t, wait, "dnsmasq serves", func() error {
			if out := nstest.Exec(t, "ss", "-lun"); !strings.Contains(out, "192.168.122.1:53") || !strings.Contains(out, ":67 ") {
				return fmt.Errorf("it does not:\n%s", out)
			}
			return nil
		})
		h := newHub(t, t.TempDir(), hubOptions{})
		taken, err := h.TakeOver(t.Context(), libvirtDefault(t), false)
		if err != nil || taken.Action != api.TakeAdopt || taken.Leases != 1 {
			t.Fatalf("taken over: %+v, %v", taken, err)
		}
		n, err := h.ByName("default")
		must(t, err)
		end()
		until(t, "the network serves", func() bool {
			leases, err := n.Leases()
			return n.Info().State == api.Active && err == nil && len(leases) == 1
		})
	})
}

// What does not fit a network is named and left out, the rest is taken over.
func TestTakeOverInPart(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		libvirtBridge(t)
		h := newHub(t, t.TempDir(), hubOptions{})
		from := libvirtDefault(t)
		soon := time.Now().Add(time.Hour).Unix()
		from.Leases = fmt.Sprintf("%d 52:54:00:aa:00:02 192.168.122.254 web2 *\n%d 52:54:00:aa:00:03 10.9.9.9 other *\n"+
			"%d 52:54:00:aa:00:04 192.168.122.1 gateway *\n1 52:54:00:aa:00:05 192.168.122.77 late *\n", soon, soon, soon)
		from.Ports = append(from.Ports, "<networkport/>", strings.NewReplacer("5d744f21", "5d744f22", "virbr0", "virbr1").Replace(from.Ports[0]))
		taken, err := h.TakeOver(t.Context(), from, false)
		must(t, err)
		if len(taken.Ports) != 1 || taken.Leases != 2 {
			t.Errorf("taken over: %+v", taken)
		}
		for _, why := range []string{
			"a port: networkport/uuid", "port 5d744f22-ba4a-4d6e-bdb2-30a35ff3207d of web1: port",
			"lease of 10.9.9.9: the network has no such subnet", "lease of 192.168.122.1: the network gives guests no such address",
		} {
			if !slices.ContainsFunc(taken.Refused, func(s string) bool { return strings.HasPrefix(s, why) }) {
				t.Errorf("it does not say %q: %q", why, taken.Refused)
			}
		}
		n, err := h.ByName("default")
		must(t, err)
		if leases, err := n.Leases(); err != nil || len(leases) != 1 {
			t.Errorf("leases are %+v (%v)", leases, err)
		}
	})
}

// What is in the way of a take-over is said before anything is changed.
func TestTakeOverRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add virbr0 type bridge")
		nstest.IP(t, "link add other type bridge")
		nstest.IP(t, "addr add 192.0.2.1/24 dev other")
		nstest.IP(t, "link set other up")
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(natXML("taken", "198.51.100"))
		libvirt := libvirtDefault(t)
		change := func(pairs ...string) api.Takeover {
			r := strings.NewReplacer(pairs...)
			return api.Takeover{Definition: r.Replace(libvirt.Definition), Status: r.Replace(libvirt.Status)}
		}
		for _, tt := range []struct {
			name string
			from api.Takeover
			kind api.Kind
			says string
		}{
			{"nothing", api.Takeover{}, api.Invalid, "a network without a definition and without a status is none"},
			{"no definition", api.Takeover{Definition: "<network/>"}, api.Invalid, "definition: network/name"},
			{"half a definition", api.Takeover{Definition: "<network>"}, api.Invalid, "definition: line 1: "},
			{"no status", api.Takeover{Definition: libvirt.Definition, Status: libvirt.Definition}, api.Invalid, "status: the document is a <network>, want <networkstatus>"},
			{"status of nothing", api.Takeover{Status: "<networkstatus/>"}, api.Invalid, "status: the document has no <network>"},
			{"status of another", api.Takeover{Definition: natXML("another", "192.0.2"), Status: libvirt.Status}, api.Conflict, "the status is of network \"default\""},
			{"damaged leases", api.Takeover{Definition: libvirt.Definition, Leases: "[{"}, api.Invalid, "leases: reading leases in JSON"},
			{"name taken", change("<name>default<", "<name>taken<"), api.Exists, `vnetd has another network "taken"`},
			{"bridge taken", change("virbr0", "taken"), api.Conflict, "network/bridge/@name"},
			{"subnet taken", change("192.168.122.", "198.51.100."), api.Conflict, `status: subnet 198.51.100.0/24 is also on interface "taken"`},
			{"subnet of the host", change("192.168.122.", "192.0.2."), api.Conflict, `status: subnet 192.0.2.0/24 is also on interface "other"`},
			{"no bridge", change("virbr0", "lo"), api.Conflict, `status: the device "lo" is no bridge`},
			{"beyond vnetd", api.Takeover{Status: strings.Replace(libvirt.Status, "<ip ", "<virtualport type='openvswitch'/><ip ", 1)}, api.Unsupported, "status: network/virtualport"},
			{"nothing left", api.Takeover{Status: strings.ReplaceAll(libvirt.Status, "virbr0", "virbr99")}, api.InvalidState, `status: the bridge "virbr99" is gone and the network has no definition`},
		} {
			_, err := h.TakeOver(t.Context(), tt.from, false)
			if network.KindOf(err) != tt.kind || err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s: %v (%s), want %s: %s", tt.name, err, network.KindOf(err), tt.kind, tt.says)
			}
		}
		if len(h.Networks()) != 1 {
			t.Errorf("%d networks are known, want that which was", len(h.Networks()))
		}
	})
}
