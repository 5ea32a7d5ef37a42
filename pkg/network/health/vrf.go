package health

import (
	"fmt"
	"slices"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge/path"
)

// master is the VRF that the bridge is in, of index 0 where it is in none.
func (f *finder) master() path.VRF {
	l, err := f.links.LookupIndex(f.Index)
	if err != nil || l.Master == 0 {
		return path.VRF{}
	}
	vrfs, err := f.vrfs()
	i := slices.IndexFunc(vrfs, func(v path.VRF) bool { return v.Index == l.Master })
	if err != nil || i < 0 {
		return path.VRF{}
	}
	return vrfs[i]
}

// elsewhere looks for a way out in a VRF, by which guests on a bridge outside it are not routed.
func (f *finder) elsewhere(out path.Packet) {
	vrfs, err := f.vrfs()
	if err != nil || f.vrf.Index != 0 {
		return
	}
	for _, vrf := range vrfs {
		way, err := f.ways.Lookup(path.Packet{To: out.To, Bound: vrf.Index})
		if err != nil {
			continue
		}
		f.add("route-from-guests", api.SeverityError,
			fmt.Sprintf("guests on %s reach nothing beyond the host: its way out, by %s, is in VRF %s, and the bridge is not", f.Bridge, f.name(way.Out), vrf.Name),
			f.evidence(out, f.Bridge, path.Way{}, path.Rule{}, false, path.ErrNoRoute), fmt.Sprintf("ip link set %s master %s", f.Bridge, vrf.Name))
		return
	}
}
