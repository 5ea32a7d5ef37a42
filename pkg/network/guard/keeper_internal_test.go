package guard

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/bridge/vlan"
)

// oneBridge are the links of a host with that bridge alone.
type oneBridge struct{ bridge.Link }

func (o oneBridge) LookupIndex(int) (bridge.Link, error) { return o.Link, nil }
func (oneBridge) Members(int) ([]bridge.Link, error)     { return nil, nil }
func (oneBridge) NetsOf(int) ([]netip.Prefix, error)     { return nil, nil }
func filtering(filters bool, defaultVLAN uint16) bridge.Link {
	return bridge.Link{FiltersVLANs: filters, DefaultVLAN: defaultVLAN}
}

// TestNatives tells in which VLANs a bridge has frames without a tag be.
func TestNatives(t *testing.T) {
	own := vlan.Table{}.With(vlan.Entry{ID: 7, PVID: true, Untagged: true}).With(vlan.Entry{ID: 8})
	for _, c := range []struct {
		name   string
		bridge bridge.Link
		ports  vlan.Table
		want   []uint16
	}{
		{"no filter", filtering(false, 1), nil, nil},
		{"the bridge's", filtering(true, 1), nil, []uint16{1}},
		{"another one of the bridge's", filtering(true, 10), nil, []uint16{10}},
		{"none", filtering(true, 0), nil, nil},
		{"the port's", filtering(true, 1), own, []uint16{7}},
		{"a trunk without one", filtering(true, 1), vlan.Table{}.With(vlan.Entry{ID: 8}), nil},
	} {
		k := &Keeper{links: oneBridge{c.bridge}}
		if got := k.natives(1, c.ports); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
