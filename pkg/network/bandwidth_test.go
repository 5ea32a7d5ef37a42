package network_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network"
)

// limitedXML is a network "one" that gives its guests 100 Mbit/s, and takes as much from
// them as the number says, with a group of ports.
func limitedXML(outbound, staff int) string {
	return fmt.Sprintf(`<network><name>one</name><uuid>`+keptUUID+`</uuid><bridge name='one' stp='off'/><dns enable='no'/>
<bandwidth><inbound average='12500' peak='25000' burst='64'/><outbound average='%d'/></bandwidth>
<ip address='192.0.2.1' netmask='255.255.255.0'/>
<portgroup name='staff'><bandwidth><inbound average='%d'/><outbound average='500'/></bandwidth></portgroup></network>`, outbound, staff)
}

// classes are the classes of a device and of what comes in from it, as tc(8) shows them.
func classes(t *testing.T, name string) (to, from string) {
	t.Helper()
	link, err := net.InterfaceByName(name)
	must(t, err)
	ifb := fmt.Sprint("ifb-", link.Index)
	to = nstest.Exec(t, "tc", "class", "show", "dev", name)
	if linkExists(ifb) {
		from = nstest.Exec(t, "tc", "class", "show", "dev", ifb)
	}
	return to, from
}

// shaped fails the test until a device has classes with those words, in each direction;
// none are to be there for the empty word.
func shaped(t *testing.T, name, to, from string) {
	t.Helper()
	nstest.Eventually(t, wait, name, func() error {
		hasTo, hasFrom := classes(t, name)
		if !has(hasTo, to) || !has(hasFrom, from) {
			return fmt.Errorf("wants %q to guests, %q from them, and has\n%s\n%s", to, from, hasTo, hasFrom)
		}
		return nil
	})
}

// has reports whether all words are in a text, which is empty for none.
func has(text, words string) bool {
	for word := range strings.FieldsSeq(words) {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return words != "" || text == ""
}

// remains is what there is of limits anywhere.
func remains(t *testing.T) string {
	t.Helper()
	all := nstest.Exec(t, "tc", "qdisc", "show") + nstest.Exec(t, "ip", "-br", "link") + nstest.Exec(t, "nft", "list", "chains")
	var left []string
	for line := range strings.Lines(all) {
		for _, word := range []string{"htb", "ifb-", "device"} {
			if strings.Contains(line, word) && !strings.Contains(line, "noqueue") && !strings.Contains(line, "hook ingress device") {
				left = append(left, line)
			}
		}
	}
	return strings.Join(left, "")
}

// limited are options of a port with limits of its own.
func limited(limits map[string]uint64) network.PortOptions {
	b, _ := network.OwnBandwidth(limits)
	return network.PortOptions{Settings: network.PortSettings{Bandwidth: b}}
}

// TestBandwidthOfNetworksAndPorts has the kernel know of the limits of a network and of
// ports, of their own and of their group, as they are asked for and as they change.
func TestBandwidthOfNetworksAndPorts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(limitedXML(1000, 2000))
		shaped(t, "one", "766e:1 100Mbit 200Mbit 766e:2", "rate 8Mbit")
		own, f := h.port(n, limited(map[string]uint64{"inbound.average": 250, "inbound.burst": 128}))
		shaped(t, own.IfName, "2Mbit burst 128Kb", "")
		group, g := h.port(n, network.PortOptions{Settings: network.PortSettings{PortGroup: "staff"}})
		shaped(t, group.IfName, "16Mbit", "4Mbit")
		free, e := h.port(n, network.PortOptions{})
		shaped(t, free.IfName, "", "")
		if got, _ := h.Ports().Find(group.UUID); got.PortGroup != "staff" || got.Bandwidth["outbound.average"] != 500 {
			t.Errorf("the port of the group is said to have %v of %q", got.Bandwidth, got.PortGroup)
		}

		h.defineWith(limitedXML(3000, 4000), api.DefineOptions{})
		shaped(t, "one", "100Mbit", "24Mbit")
		shaped(t, group.IfName, "32Mbit", "4Mbit")
		shaped(t, own.IfName, "2Mbit", "")

		set := func(uuid string, change func(s *network.PortSettings)) {
			t.Helper()
			must(t, h.Ports().Bandwidth().Set(t.Context(), n, uuid, func(s *network.PortSettings) error { change(s); return nil }))
		}
		set(own.UUID, func(s *network.PortSettings) { s.Bandwidth = &netdef.Bandwidth{Outbound: &netdef.Rate{Average: 125}} })
		shaped(t, own.IfName, "", "1Mbit")
		set(group.UUID, func(s *network.PortSettings) { s.Bandwidth = &netdef.Bandwidth{} })
		shaped(t, group.IfName, "", "")
		set(group.UUID, func(s *network.PortSettings) { s.Bandwidth = nil })
		shaped(t, group.IfName, "32Mbit", "4Mbit")
		set(free.UUID, func(s *network.PortSettings) { s.PortGroup = "staff" })
		shaped(t, free.IfName, "32Mbit", "4Mbit")

		for _, file := range []*os.File{f, g, e} {
			must(t, file.Close())
		}
		until(t, "the ports are gone", func() bool { return len(h.Ports().List()) == 0 })
		must(t, n.Stop(t.Context()))
		if left := remains(t); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
	})
}

// TestBandwidthIsKept puts back what others take of limits, leaves alone what is right
// when a new vnetd finds it, and finds what is left of a port that ended meanwhile.
func TestBandwidthIsKept(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		h := newHub(t, root, hubOptions{})
		n := h.started(limitedXML(1000, 2000))
		opts := limited(map[string]uint64{"inbound.average": 250, "inbound.floor": 125, "outbound.average": 250})
		opts.Lifetime = api.LifetimePersistent
		info, f := h.port(n, opts)
		must(t, f.Close())
		link, err := net.InterfaceByName(info.IfName)
		must(t, err)
		ifb := fmt.Sprint("ifb-", link.Index)
		intact := func() {
			t.Helper()
			shaped(t, "one", "766e:1 766e:2 766e:3 1Mbit", "8Mbit")
			shaped(t, info.IfName, "2Mbit", "2Mbit")
			until(t, "what comes in is sent through "+ifb, func() bool {
				return strings.Contains(nstest.Exec(t, "nft", "list", "ruleset"), `fwd to "`+ifb+`"`)
			})
		}
		intact()
		for _, damage := range []string{
			"tc qdisc del dev one root", "tc qdisc del dev " + info.IfName + " root", "tc filter del dev one",
			"tc qdisc replace dev " + info.IfName + " root pfifo", "ip link del " + ifb, "nft flush ruleset", "ip link set " + ifb + " down",
			"tc class change dev one classid 766e:3 parent 766e:1 htb rate 3mbit",
		} {
			nstest.Exec(t, "sh", "-c", damage)
			intact()
		}
		h.end()

		nstest.Exec(t, "sh", "-c", "tc qdisc del dev one root")
		h = newHub(t, root, hubOptions{})
		intact()
		before := nstest.Exec(t, "tc", "-s", "qdisc", "show") // with counters and handles
		h.end()
		h = newHub(t, root, hubOptions{})
		intact()
		if after := nstest.Exec(t, "tc", "-s", "qdisc", "show"); strings.Count(after, "htb") != strings.Count(before, "htb") {
			t.Errorf("adopted as\n%s\nwas\n%s", after, before)
		}
		h.end()
		nstest.IP(t, "link del "+info.IfName)
		newHub(t, root, hubOptions{})
		until(t, "nothing is left of the port", func() bool { return !linkExists(ifb) })
		shaped(t, "one", "766e:2 100Mbit", "8Mbit")
		if to, _ := classes(t, "one"); strings.Contains(to, "766e:3") {
			t.Errorf("the floor of a port that is gone is kept:\n%s", to)
		}
	})
}

// TestFloors has a network promise no more than it has, and each port get what it was
// promised by a class of its own.
func TestFloors(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(limitedXML(1000, 2000))
		info, f := h.port(n, limited(map[string]uint64{"inbound.floor": 20000}))
		defer f.Close()
		shaped(t, "one", "766e:3 160Mbit 8Kbit", "8Mbit")
		_, _, err := h.Ports().Request(t.Context(), n, limited(map[string]uint64{"inbound.floor": 5001}))
		if network.KindOf(err) != api.InvalidState || !strings.Contains(err.Error(), "inbound floor=25001 would overcommit peak=25000") {
			t.Errorf("more than there is: %v", err)
		}
		doc := &netdef.Port{
			UUID: "77777777-0000-4000-8000-000000000001", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 9}, Owner: netdef.Owner{Name: "vm", UUID: keptUUID},
			Bandwidth: &netdef.Bandwidth{Inbound: &netdef.Rate{Average: 100, Floor: 5000}},
		}
		full, err := h.Ports().Register(t.Context(), n, doc, false, 0)
		must(t, err)
		if full.ClassID != 4 {
			t.Errorf("the second floor is class %d, want 4", full.ClassID)
		}
		shaped(t, "one", "766e:4 40Mbit", "8Mbit")
		less := strings.Replace(limitedXML(1000, 2000), " peak='25000'", "", 1)
		_, err = h.DefineWith(t.Context(), []byte(less), api.DefineOptions{Apply: api.ApplyAll})
		if network.KindOf(err) != api.InvalidState || errors.Is(err, network.ErrFloor) {
			t.Errorf("a network that can't keep its promises: %v", err)
		}
		d := h.defineWith(strings.Replace(less, "<dns", "<title>less</title><dns", 1), api.DefineOptions{})
		if len(d.Pending) != 1 || !strings.Contains(d.Pending[0], "network/bandwidth") || !strings.Contains(string(n.XML(false)), "<title>less</title>") {
			t.Errorf("what can't be at once is not pending alone: %q", d.Pending)
		}
		h.define(limitedXML(1000, 2000))
		must(t, h.Ports().Release(t.Context(), doc.UUID))
		until(t, "the class of a port that has ended is gone", func() bool {
			to, _ := classes(t, "one")
			return !strings.Contains(to, "766e:4") && strings.Contains(to, "766e:3")
		})
		must(t, h.Ports().Bandwidth().Set(t.Context(), n, info.UUID, func(s *network.PortSettings) error { s.Bandwidth = nil; return nil }))
		until(t, "a floor that is given back is gone", func() bool {
			to, _ := classes(t, "one")
			return !strings.Contains(to, "766e:3")
		})
	})
}

// TestGuardOfALimitedPort has a guest who is held to a rate send nothing that its guard
// stops: what is held goes past it and on, and not around it.
func TestGuardOfALimitedPort(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		n := h.started(guardedXML(""))
		opts := limited(map[string]uint64{"inbound.average": 12500, "outbound.average": 12500})
		opts.Untrusted, opts.Owner = true, 1000
		info, f := h.port(n, opts)
		defer f.Close()
		if info.Guard != "strict" {
			t.Fatalf("the guard is %q", info.Guard)
		}
		a := nstest.Machine(t, "a", info.MAC, f)
		lease(t, a)
		nstest.Eventually(t, wait, "the guest reaches its gateway", func() error { return reaches(a, "192.0.2.1") })
		link, err := net.InterfaceByName(info.IfName)
		must(t, err)
		if sent := nstest.Exec(t, "tc", "-s", "qdisc", "show", "dev", fmt.Sprint("ifb-", link.Index), "root"); strings.Contains(sent, "Sent 0 bytes") {
			t.Errorf("what the guest sends is not held:\n%s", sent)
		}
		a.IP("addr add 192.0.2.77/24 dev eth0")
		if a.Command(t.Context(), "ping", "-c1", "-W1", "-I", "192.0.2.77", "192.0.2.1").Run() == nil {
			t.Error("a guest who is held to a rate may use an address that is not its own")
		}
		if got := stoppedOf(h, info); got["arp"]+got["ip"] == 0 {
			t.Errorf("what was stopped is not shown: %v", got)
		}
	})
}

// TestBandwidthOfASharedBridge has one of several networks on a bridge of the host's hold it: those
// without a bandwidth leave it as it is, and the next one comes into its own when the first has stopped.
func TestBandwidthOfASharedBridge(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.IP(t, "link add br0 type bridge")
		log := new(sealed)
		h := newHub(t, t.TempDir(), hubOptions{log: log})
		shared := func(name string, average int) *network.Network {
			t.Helper()
			limit := ""
			if average > 0 {
				limit = fmt.Sprintf("<bandwidth><inbound average='%d'/></bandwidth>", average)
			}
			return h.started("<network><name>" + name + "</name><forward mode='bridge'/><bridge name='br0'/>" + limit + "</network>")
		}
		one := shared("one", 1000)
		shaped(t, "br0", "8Mbit", "")
		plain := shared("plain", 0)
		shaped(t, "br0", "8Mbit", "")
		must(t, plain.Stop(t.Context()))
		two := shared("two", 2000)
		shaped(t, "br0", "8Mbit", "")
		until(t, "a condition says whose is not kept", func() bool {
			return slices.ContainsFunc(h.Conditions(), func(c api.Condition) bool {
				return c.Kind == "bandwidth-shadowed" && c.Networks[0] == "two" && strings.Contains(c.Message, `"one"`)
			})
		})
		must(t, h.Reload(t.Context()))
		if strings.Contains(log.String(), "repaired") {
			t.Errorf("the two fight:\n%s", log.String())
		}
		must(t, one.Stop(t.Context()))
		shaped(t, "br0", "16Mbit", "")
		must(t, two.Stop(t.Context()))
		shaped(t, "br0", "", "")
	})
}
