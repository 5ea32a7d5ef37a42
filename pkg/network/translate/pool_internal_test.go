package translate

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// TestMergeVirtualPorts has the profiles of a port, its network and its group be one, as in
// virNetDevVPortProfileMerge3 of libvirt.
func TestMergeVirtualPorts(t *testing.T) {
	one, two := 1, 2
	ovs := &netdef.VirtualPort{Type: "openvswitch", ProfileID: "net"}
	for _, tt := range []struct {
		what     string
		profiles []*netdef.VirtualPort
		want     *netdef.VirtualPort
		fails    bool
	}{
		{"nothing", []*netdef.VirtualPort{nil, nil, nil}, nil, false},
		{"one", []*netdef.VirtualPort{nil, ovs, nil}, ovs, false},
		{"typeless into typed", []*netdef.VirtualPort{{InterfaceID: "u"}, ovs, {}}, &netdef.VirtualPort{Type: "openvswitch", ProfileID: "net", InterfaceID: "u"}, false},
		{"the same twice", []*netdef.VirtualPort{ovs, ovs, {ProfileID: "net"}}, ovs, false},
		{"what the type has not", []*netdef.VirtualPort{ovs, {ManagerID: &one, InstanceID: "i"}, nil}, ovs, false},
		{"two types", []*netdef.VirtualPort{ovs, {Type: "802.1Qbh"}, nil}, nil, true},
		{"two profiles", []*netdef.VirtualPort{ovs, nil, {ProfileID: "group"}}, nil, true},
		{"two managers", []*netdef.VirtualPort{{Type: "802.1Qbg", ManagerID: &one}, {ManagerID: &two}, nil}, nil, true},
	} {
		got, err := mergeVirtualPorts(tt.profiles...)
		if diff := cmp.Diff(tt.want, got); diff != "" || (err != nil) != tt.fails {
			t.Errorf("%s: %v (-want +got):\n%s", tt.what, err, diff)
		}
		if _, xml := errors.AsType[netdef.Faults](err); tt.fails && !xml {
			t.Errorf("%s: %v is no fault of XML, as libvirt has it", tt.what, err)
		}
	}
	if *ovs != (netdef.VirtualPort{Type: "openvswitch", ProfileID: "net"}) {
		t.Errorf("the network's own profile was changed: %+v", ovs)
	}
}

// TestCompleteVirtualPort makes up what nobody says, and misses what the admin must say.
func TestCompleteVirtualPort(t *testing.T) {
	n := 1
	for _, tt := range []struct {
		profile netdef.VirtualPort
		missing string
	}{
		{netdef.VirtualPort{Type: "openvswitch"}, ""},
		{netdef.VirtualPort{Type: "802.1Qbg", ManagerID: &n, TypeID: &n, TypeIDVersion: &n}, ""},
		{netdef.VirtualPort{Type: "802.1Qbg", ManagerID: &n, TypeID: &n}, "missing typeidversion in <virtualport type='802.1Qbg'>"},
		{netdef.VirtualPort{Type: "802.1Qbh"}, "missing profileid in <virtualport type='802.1Qbh'>"},
	} {
		v := tt.profile
		err := completeVirtualPort(&v)
		switch {
		case tt.missing != "":
			if kind, _ := api.KindOf(err); kind != api.Invalid || err.Error() != tt.missing {
				t.Errorf("%+v: %v", tt.profile, err)
			}
		case err != nil || len(v.InterfaceID+v.InstanceID) != 36:
			t.Errorf("%+v became %+v, %v", tt.profile, v, err)
		}
	}
}

// TestPoolChoosesTheLeastUsed is networkAllocatePort of libvirt, over networks.
func TestPoolChoosesTheLeastUsed(t *testing.T) {
	here := func(string) bool { return false }
	live := &netdef.Network{Name: "n", Forward: &netdef.Forward{Mode: netdef.ModeVEPA}}
	for _, tt := range []struct {
		uses      map[string]int
		away      string
		exclusive bool
		want      string
	}{
		{nil, "", false, "a"},
		{map[string]int{"a": 1}, "", false, "b"},
		{map[string]int{"a": 2, "b": 1, "c": 1}, "", false, "b"},
		{map[string]int{"a": 1, "b": 1, "c": 1}, "", false, "a"},
		{map[string]int{"a": 1}, "", true, "b"},
		{map[string]int{"a": 1, "b": 1, "c": 1}, "", true, ""},
		{map[string]int{"b": 1}, "a", true, "c"},
	} {
		p := &Pool{Devs: []string{"a", "b", "c"}, Uses: tt.uses, Away: here}
		if tt.away != "" {
			p.Away = func(dev string) bool { return dev == tt.away }
		}
		got, err := p.Dev(live, tt.exclusive)
		if kind, _ := api.KindOf(err); got != tt.want || (tt.want == "") != (kind == api.Conflict) {
			t.Errorf("%+v: %q, %v", tt, got, err)
		}
	}
}
