package network

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Stats are the counts of all networks, in order of name. Those of a service
// begin anew when it is opened anew.
func (m *Manager) Stats() []Stats {
	var all []Stats
	for _, n := range m.catalog.all() {
		all = append(all, n.Stats())
	}
	return all
}

// ClusterStats are the counts of a cluster.
type ClusterStats struct {
	api.Cluster
	Moves  uint64                // of guests' cards from host to host, since vnetd started
	Blocks map[string]api.Blocks // of its networks on this host, by name
}

// Stats are the counts of each, in order of name.
func (cs Clusters) Stats() []ClusterStats {
	clusters := cs.catalog.env.Clusters
	var all []ClusterStats
	for _, c := range clusters.All() {
		s := ClusterStats{Cluster: c.Status(), Moves: c.Member.Status().Moves, Blocks: make(map[string]api.Blocks)}
		for _, n := range cs.catalog.all() {
			if doc := n.Document(); clusters.Of(doc) == c {
				s.Blocks[doc.Name] = c.Blocks(doc.Name)
			}
		}
		all = append(all, s)
	}
	return all
}

// PortRequests returns how long the requests that got a port took, the start of a
// network on demand included.
func (m *Manager) PortRequests() histogram.Counts { return m.env.PortRequests.Load() }

// Firewall tells what became of the firewall.
func (m *Manager) Firewall() api.Firewall {
	s := m.env.Rules.Stats()
	f := api.Firewall{
		Backend: s.Backend, Reason: s.Reason,
		Repairs: s.Repairs, ByCause: map[string]uint64{}, Rules: s.Rules, Zones: s.Zones,
		Checks: s.Checks, Failed: s.Failed, Contended: s.Contended,
	}
	f.Offloaded, _ = m.env.Rules.Offloaded() // none where the kernel does not tell
	for _, cause := range slices.Collect(maps.Keys(s.ByCause)) {
		f.ByCause[string(cause)] = s.ByCause[cause]
	}
	if !s.LastRepair.IsZero() {
		f.LastRepair = &s.LastRepair
	}
	return f
}

// Counts tells what passes ports and what services are asked, for who looks again and
// again. The kernel is asked for all ports at once.
func (m *Manager) Counts() (api.Counts, error) {
	links, err := m.env.Links.Counters()
	if err != nil {
		return api.Counts{}, err
	}
	stopped := m.Ports().Guards().Stopped()
	c := api.Counts{Time: time.Now(), Networks: []api.NetworkCounts{}, Conntrack: Conntrack()}
	for _, s := range m.Stats() {
		c.Networks = append(c.Networks, networkCounts(s, links, stopped))
	}
	return c, nil
}

// networkCounts is what of s somebody looks at who watches. links are by name, stopped
// by the port's UUID.
func networkCounts(s Stats, links map[string]bridge.Counters, stopped map[string]firewall.Stopped) api.NetworkCounts {
	n := api.NetworkCounts{
		Name: s.Info.Name, UUID: s.Info.UUID, State: s.Info.State, Bridge: s.Info.Bridge,
		DHCP: dhcpRequests(s), Ports: []api.PortCounts{},
	}
	if s.DNS != nil {
		for _, a := range s.DNS.Answers {
			n.DNS += a.Count
		}
	}
	for _, p := range s.Ports {
		c := links[p.IfName]
		if p.Macvtap {
			c = c.Swapped()
		}
		counts := api.PortCounts{
			UUID: p.UUID, Name: p.Name, MAC: p.MAC, IfName: p.IfName,
			Receive:  api.Traffic{Bytes: c.TxBytes, Packets: c.TxPackets, Errors: c.TxErrors, Drops: c.TxDropped},
			Transmit: api.Traffic{Bytes: c.RxBytes, Packets: c.RxPackets, Errors: c.RxErrors, Drops: c.RxDropped},
		}
		for _, frames := range stopped[p.UUID] {
			counts.Stopped += frames
		}
		n.Ports = append(n.Ports, counts)
	}
	return n
}

// dhcpRequests is how many messages of clients DHCP has understood.
func dhcpRequests(s Stats) (sum uint64) {
	if d := s.DHCP; d != nil {
		sum += d.Discover + d.Request + d.Decline + d.Release + d.Inform + d.BOOTP
	}
	if d := s.DHCP6; d != nil {
		sum += d.Solicit + d.Request + d.Confirm + d.Renew + d.Rebind + d.Release + d.Decline + d.InformationRequest
	}
	return sum
}

// Conntrack tells how many connections the kernel tracks, nil where it tracks none.
func Conntrack() *api.Conntrack {
	var c api.Conntrack
	for figure, into := range map[string]*uint64{"count": &c.Entries, "max": &c.Limit} {
		text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_" + figure)
		if err != nil {
			return nil
		}
		if *into, err = strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err != nil {
			return nil
		}
	}
	return &c
}
