package bridge_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
)

// vlanKernel is of guests whose kernel has all that bridges can have.
var vlanKernel = nstest.GuestFiles{Modules: []string{"llc", "stp", "bridge", "tun", "veth"}}

// shownVLANs is what bridge(8) shows of the VLANs of a link.
func shownVLANs(t *testing.T, link string) string {
	t.Helper()
	var links []struct {
		Name  string `json:"ifname"`
		VLANs []struct {
			ID    int      `json:"vlan"`
			End   int      `json:"vlanEnd"`
			Flags []string `json:"flags"`
		} `json:"vlans"`
	}
	if err := json.Unmarshal([]byte(nstest.Exec(t, "bridge", "-j", "vlan", "show", "dev", link)), &links); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range links {
		for _, v := range l.VLANs {
			for id := v.ID; id <= max(v.ID, v.End); id++ {
				all = append(all, strings.Join(append([]string{fmt.Sprint(id)}, v.Flags...), " "))
			}
		}
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}

// wantVLANs holds that a link has those VLANs, and that the package reads them so.
func wantVLANs(t *testing.T, b *bridge.Bridges, when, link string, want vlan.Table) {
	t.Helper()
	if got := shownVLANs(t, link); got != want.String() {
		t.Errorf("%s: %s has the VLANs %s, want %v", when, link, got, want)
	}
	l, err := b.Lookup(link)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.VLANs(l.Index); err != nil || got.String() != want.String() {
		t.Errorf("%s: of %s is read %v (%v), want %v", when, link, got, err, want)
	}
}

// vlanTables are those that a port may have.
func vlanTables() map[string]vlan.Table {
	return map[string]vlan.Table{
		"access": vlan.Untagged(42), "trunk": vlan.Tagged(10, 11, 12, 4094),
		"native":        vlan.Tagged(10).With(vlan.Entry{ID: 42, PVID: true, Untagged: true}),
		"native tagged": vlan.Tagged(10).With(vlan.Entry{ID: 42, PVID: true}),
		"none":          nil, "nothing": {},
	}
}

// TestVLANs holds that ports have the VLANs that they are given, and no others at any
// time, whatever they had, and that they are mended.
func TestVLANs(t *testing.T) {
	nstest.RunInGuest(t, vlanKernel, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.FilterVLANs = true
		index := ensure(t, b, cfg)
		_, port := openTAP(t, "vnet0")
		plain := vlan.Untagged(1)
		for from, was := range vlanTables() {
			for to, want := range vlanTables() {
				when := from + " becomes " + to
				attach(t, b, index, port, bridge.PortConfig{VLANs: was, PlainVLANs: true})
				attach(t, b, index, port, bridge.PortConfig{VLANs: want, PlainVLANs: true})
				if want == nil {
					want = plain
				}
				wantVLANs(t, b, when, "vnet0", want)
				quiet := bridge.PortConfig{VLANs: want, Amend: func(d bridge.Difference) bool { t.Errorf("%s, again: %v", when, d); return true }}
				attach(t, b, index, port, quiet)
				if err := b.Detach(port); err != nil {
					t.Fatal(err)
				}
				quiet.Amend = func(d bridge.Difference) bool { return d.Aspect == bridge.AspectMaster || d.Aspect == bridge.AspectMTU }
				attach(t, b, index, port, quiet)
				wantVLANs(t, b, when+", plugged in anew", "vnet0", want)
			}
		}
		var seen []string
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "666")
		attach(t, b, index, port, bridge.PortConfig{VLANs: vlan.Untagged(42), Amend: func(d bridge.Difference) bool { seen = append(seen, d.String()); return true }})
		wantVLANs(t, b, "somebody added one", "vnet0", vlan.Untagged(42))
		if len(seen) != 1 || !strings.HasSuffix(seen[0], "should be 42 PVID Egress Untagged") {
			t.Errorf("the differences are %q", seen)
		}
		// What is left alone.
		nstest.Exec(t, "bridge", "vlan", "add", "dev", "vnet0", "vid", "7")
		attach(t, b, index, port, bridge.PortConfig{})
		wantVLANs(t, b, "VLANs that nobody asks for", "vnet0", vlan.Untagged(42).Joined(vlan.Tagged(7)))
		if err := b.SetVLANs(port, plain.Joined(vlan.Tagged(8)), true, nil); err != nil {
			t.Error(err)
		}
		wantVLANs(t, b, "more of them", "vnet0", plain.Joined(vlan.Tagged(7, 8)).With(vlan.Entry{ID: 42, Untagged: true}))
	})
}

// TestVLANsWithMACTable holds that the bridge finds a guest in the VLAN to which its port
// was moved.
func TestVLANsWithMACTable(t *testing.T) {
	nstest.RunInGuest(t, vlanKernel, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.MACTable, cfg.FilterVLANs = true, true
		index := ensure(t, b, cfg)
		_, port := openTAP(t, "vnet0")
		p := bridge.PortConfig{NoLearning: true, NoFlood: true, FDB: parseMAC(guestMAC)}
		for _, id := range []uint16{42, 43} {
			p.VLANs = vlan.Untagged(id)
			attach(t, b, index, port, p)
			if got := nstest.Exec(t, "bridge", "fdb", "show", "brport", "vnet0"); !strings.Contains(got, guestMAC+" vlan "+fmt.Sprint(id)+" ") {
				t.Errorf("the bridge does not know the guest in VLAN %d:\n%s", id, got)
			}
		}
	})
}

// TestAdjust holds that attributes of a bridge that somebody else made are brought to
// what they shall be, and nothing else of it.
func TestAdjust(t *testing.T) {
	nstest.RunInGuest(t, vlanKernel, func(t *testing.T) {
		b := newBridges(t)
		nstest.IP(t, "link add br0 address "+mac+" type bridge")
		l, err := b.Lookup("br0")
		if err != nil {
			t.Fatal(err)
		}
		all := bridge.Config{FilterVLANs: true, Snooping: bridge.Off, Querier: bridge.On, STP: true, MTU: 1400}
		for _, tt := range []struct {
			cfg  bridge.Config
			want string
		}{
			{all, "true 0 1 1 1400"},
			{bridge.Config{Snooping: bridge.On, Querier: bridge.Off}, "true 1 0 0 1400"}, // filtering stays
			{bridge.Config{}, "true 1 0 0 1400"},
			{all, "true 0 1 1 1400"},
		} {
			if err := b.Adjust(t.Context(), l.Index, tt.cfg); err != nil {
				t.Error(err)
			}
			if got := switches(t, "br0"); got != tt.want {
				t.Errorf("filtering, snooping, querier, STP and MTU are %s, want %s", got, tt.want)
			}
		}
		all.Amend = func(d bridge.Difference) bool { t.Errorf("a second time: %v", d); return true }
		if err := b.Adjust(t.Context(), l.Index, all); err != nil {
			t.Error(err)
		}
		var seen []bridge.Aspect
		all.Amend = func(d bridge.Difference) bool { seen = append(seen, d.Aspect); return true }
		nstest.IP(t, "link set br0 type bridge vlan_filtering 0 mcast_snooping 1 mcast_querier 0")
		if err := b.Adjust(t.Context(), l.Index, all); err != nil || len(seen) != 3 {
			t.Errorf("mended are %v (%v), want three", seen, err)
		}
		if err := b.Adjust(t.Context(), 1, bridge.Config{}); !errors.Is(err, bridge.ErrNotBridge) {
			t.Errorf("of lo: %v", err)
		}
	})
}

// switches are those of a bridge, as ip(8) shows them.
func switches(t *testing.T, link string) string {
	t.Helper()
	var all []struct {
		MTU  int `json:"mtu"`
		Info struct {
			Data struct {
				Filtering int `json:"vlan_filtering"`
				Snooping  int `json:"mcast_snooping"`
				Querier   int `json:"mcast_querier"`
				STP       int `json:"stp_state"`
			} `json:"info_data"`
		} `json:"linkinfo"`
	}
	if err := json.Unmarshal([]byte(nstest.IP(t, "-d -j link show dev "+link)), &all); err != nil || len(all) != 1 {
		t.Fatal(err)
	}
	d := all[0].Info.Data
	return fmt.Sprint(d.Filtering == 1, d.Snooping, d.Querier, d.STP, all[0].MTU)
}

// TestNoVLANsWithoutFiltering holds that nobody is promised VLANs which a bridge does not
// keep apart: here because this machine's kernel can't, or because nobody said that it
// shall.
func TestNoVLANsWithoutFiltering(t *testing.T) {
	body := func(t *testing.T) {
		b := newBridges(t)
		index := ensure(t, b, defaultConfig())
		_, port := openTAP(t, "vnet0")
		l, err := b.LookupIndex(index)
		if err != nil {
			t.Fatal(err)
		}
		want := bridge.ErrNotFiltering
		if !l.CanFilterVLANs {
			want = bridge.ErrCantFilter
			if err := b.Adjust(t.Context(), index, bridge.Config{FilterVLANs: true}); !errors.Is(err, want) {
				t.Errorf("filtering: %v, want %v", err, want)
			}
		}
		if err := b.Attach(t.Context(), index, port, bridge.PortConfig{VLANs: vlan.Untagged(42)}); !errors.Is(err, want) {
			t.Errorf("a port with a VLAN: %v, want %v", err, want)
		}
		if l, err := b.LookupIndex(port); err != nil || l.Master != 0 {
			t.Errorf("the port is plugged in all the same (%v)", err)
		}
		attach(t, b, index, port, bridge.PortConfig{PlainVLANs: true})
		if err := b.SetVLANs(port, vlan.Untagged(42), false, nil); !errors.Is(err, want) {
			t.Errorf("VLANs of a port: %v, want %v", err, want)
		}
	}
	t.Run("here", func(t *testing.T) { nstest.Run(t, body) })
	t.Run("elsewhere", func(t *testing.T) { nstest.RunInGuest(t, vlanKernel, body) })
}
