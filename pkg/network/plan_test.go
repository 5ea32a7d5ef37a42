package network_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// planXML asks for a bit of everything.
const planXML = "<network><name>one</name><forward mode='nat'/><bridge name='one' stp='on' delay='3'/><mtu size='1400'/>" +
	"<ip address='192.0.2.1' netmask='255.255.255.0'><dhcp><range start='192.0.2.2' end='192.0.2.254'/></dhcp></ip>" +
	"<ip family='ipv6' address='2001:db8:1::1' prefix='64'/>" +
	"<route address='198.51.100.0' prefix='24' gateway='192.0.2.9'/></network>"

// TestPlanComesTrue holds a plan against the network that follows, and that it
// touched nothing.
func TestPlanComesTrue(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		before := kernel(t)
		p, err := h.Plan([]byte(planXML))
		must(t, err)
		if diff := cmp.Diff(before, kernel(t)); diff != "" || len(h.Networks()) != 0 || linkExists("one") {
			t.Errorf("the plan was made true (-before +after):\n%s", diff)
		}
		if files, err := os.ReadDir(h.dirs.Networks); err != nil || len(files) != 1 { // autostart
			t.Errorf("definitions: %v, %v", files, err)
		}
		if p.Action != "create" || len(p.Conflicts) != 0 || p.Links[0].MAC != "" || len(p.Pools) != 1 {
			t.Errorf("plan %+v", p)
		}
		h.started(planXML)
		plannedRules(t, p)
		plannedSettings(t, p)
		if len(p.Addresses) != 2 || len(p.Routes) != 1 || len(p.Sysctls) != 9 || len(p.Services) != 3 {
			t.Errorf("plan %+v", p)
		}
	})
}

// plannedSettings fails the test unless addresses, routes and sysctls are those of
// the plan.
func plannedSettings(t *testing.T, p api.Plan) {
	t.Helper()
	addrs := nstest.IP(t, "-br addr show dev one")
	for _, a := range p.Addresses {
		if !strings.Contains(addrs, a.Address.String()) {
			t.Errorf("%v is not among %s", a.Address, addrs)
		}
	}
	for _, r := range p.Routes {
		if got := nstest.IP(t, fmt.Sprintf("route show %v via %v dev %s metric %d", r.Destination, r.Gateway, r.Link, r.Metric)); got == "" {
			t.Errorf("route %v is not there", r)
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		want := api.PlannedSysctl{Key: "net/" + family + "/conf/one/forwarding", Value: "1"}
		if !slices.Contains(p.Sysctls, want) {
			t.Errorf("%s is not among %v", want.Key, p.Sysctls)
		}
	}
	for _, s := range p.Sysctls {
		if got, err := os.ReadFile("/proc/sys/" + s.Key); err != nil || strings.TrimSpace(string(got)) != s.Value {
			t.Errorf("%s is %q, %v, planned was %s", s.Key, got, err, s.Value)
		}
	}
}

// plannedRules fails the test unless the rules of vnetd's chains are those of the
// plan.
func plannedRules(t *testing.T, p api.Plan) {
	t.Helper()
	var want, got []string
	for _, r := range p.Rules {
		want = append(want, r.Family+" -A "+r.Chain+" "+r.Args)
	}
	for family, save := range map[string]string{"ipv4": "iptables-save", "ipv6": "ip6tables-save"} {
		for line := range strings.Lines(nstest.Exec(t, save)) {
			if strings.HasPrefix(line, "-A LIBVIRT_") {
				got = append(got, family+" "+strings.TrimSpace(line))
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-planned +made):\n%s", diff)
	}
}

// TestPlanNamesConflicts has everything in the way that can be.
func TestPlanNamesConflicts(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		h := newHub(t, t.TempDir(), hubOptions{})
		h.started(natXML("one", "192.0.2"))
		for _, args := range []string{"link add two type bridge", "link add eno1 type veth peer name eno2", "link set eno1 up", "addr add 203.0.113.7/24 dev eno1"} {
			nstest.IP(t, args)
		}
		for _, c := range []struct {
			xml, action string
			says        []string
		}{
			{natXML("three", "198.51.100"), "create", nil},
			{natXML("three", "192.0.2"), "create", []string{"overlaps the subnet 192.0.2.0/24 of network 'one'", `already in use by interface "one"`}},
			{natXML("two", "203.0.113"), "create", []string{`a device "two" (bridge) already exists`}},
			{natXML("three", "203.0.113"), "create", []string{`already in use by interface "eno1"`}},
			{natXML("one", "198.51.100"), "change", nil},
			{"<network><name>four</name><forward mode='bridge'/><bridge name='br4'/><virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport></network>", "create", []string{"network/virtualport of type 802.1Qbh is not available"}},
			{directXML("five", "vepa", "lan8", "lan9"), "create", []string{"lan8, lan9: no such link of this host"}},
		} {
			p, err := h.Plan([]byte(c.xml))
			if err != nil || p.Action != c.action || len(c.says) == 0 && len(p.Conflicts) > 0 {
				t.Errorf("%s: %v, %s, %q", c.xml, err, p.Action, p.Conflicts)
			}
			for _, text := range c.says {
				if !slices.ContainsFunc(p.Conflicts, func(said string) bool { return strings.Contains(said, text) }) {
					t.Errorf("%s: conflicts are %q, want %q", c.xml, p.Conflicts, text)
				}
			}
		}
		p, err := h.Plan([]byte(strings.Replace(natXML("one", "192.0.2"), "bridge name='one'", "bridge name='eight'", 1)))
		if want := "network/bridge: <bridge name='one' stp='on' delay='0'/> becomes <bridge name='eight' stp='on' delay='0'/>"; err != nil || len(p.Conflicts) > 0 || !slices.Equal(p.Pending, []string{want}) {
			t.Errorf("another bridge's name: %v, conflicts %q, pending %q, want %q", err, p.Conflicts, p.Pending, want)
		}
		if _, err := h.Plan([]byte("<network/>")); network.KindOf(err) != api.Invalid {
			t.Errorf("a document without a name gives %v", err)
		}
	})
}
