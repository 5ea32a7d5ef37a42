package main

import (
	"maps"
	"slices"
	"strconv"

	"github.com/vnetd/vnetd/internal/histogram"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dnsd"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/network"
)

// measurement is what all metrics of one scrape are made of.
type measurement struct {
	version    string
	networks   []network.Stats
	clusters   []network.ClusterStats     // none without a cluster
	bgp        *api.BGP                   // nil where routers are told of nothing
	links      map[string]bridge.Counters // by name
	firewall   firewall.Stats
	offloaded  int
	conditions []api.Condition
	stopped    map[string]firewall.Stopped // by the port's UUID
	forwards   []api.Forward               // with what goes on by them; none where the kernel does not tell
	requests   histogram.Counts            // of times that it took to give somebody a port
}

// measure asks everybody once.
func (h *daemon) measure() (*measurement, error) {
	links, err := h.links.Counters()
	if err != nil {
		return nil, err
	}
	offloaded, err := h.rules.Offloaded()
	if err != nil {
		return nil, err
	}
	forwards, _ := h.manager.Forwards().CountAll() // the kernel may not tell
	return &measurement{
		forwards: forwards, offloaded: offloaded,
		version: programVersion(), networks: h.manager.Stats(), clusters: h.manager.Clusters().Stats(), bgp: network.AnnouncementsOf(h.manager).Status(), links: links,
		firewall: h.rules.Stats(), conditions: h.manager.Conditions(),
		requests: h.manager.PortRequests(), stopped: h.manager.Ports().Guards().Stopped(),
	}, nil
}

// emit takes a sample with the values of its family's labels.
type emit func(value float64, labels ...string)

// histogramSample is a sample of a histogram's family.
type histogramSample struct {
	label string // the value of the family's label, if it has one
	histogram.Counts
}

// family is all samples of one name.
type family struct {
	name, help string
	kind       string
	labels     string // words
	samples    func(m *measurement, e emit)
	histograms func(m *measurement) []histogramSample // in place of samples
}

// The kinds of families.
const (
	gauge   = "gauge"
	counter = "counter"
)

// families are all metrics.
var families = []family{
	{name: "build_info", help: "The running vnetd; the value is 1.", kind: gauge, labels: "version", samples: func(m *measurement, e emit) { e(1, m.version) }},
	{name: "network_info", help: "A network; the value is 1.", kind: gauge, labels: "network uuid bridge mode mtu", samples: eachNetwork(func(n network.Stats, e emit) {
		e(1, n.Info.Name, n.Info.UUID, n.Info.Bridge, n.Info.Mode, strconv.Itoa(n.Info.MTU))
	})},
	{name: "network_up", help: "Whether the network is active.", kind: gauge, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		e(truth(n.Info.Active), n.Info.Name)
	})},
	{name: "network_degraded", help: "Whether a part of the active network fails.", kind: gauge, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		e(truth(n.Info.State == api.Degraded), n.Info.Name)
	})},
	{name: "network_ports", help: "Ports of the network.", kind: gauge, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		e(float64(len(n.Ports)), n.Info.Name)
	})},
	{name: "network_repairs_total", help: "Times that something of the network was put back, by what was amiss first.", kind: counter, labels: "network what", samples: eachNetwork(func(n network.Stats, e emit) {
		for _, what := range slices.Sorted(maps.Keys(n.Repairs)) {
			e(float64(n.Repairs[what]), n.Info.Name, what)
		}
	})},
	{name: "network_failures_total", help: "Times that a part of the network failed and was tried again.", kind: counter, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		e(float64(n.Failures), n.Info.Name)
	})},

	{name: "port_request_seconds", help: "Time that it took to give somebody a port.", kind: "histogram", histograms: func(m *measurement) []histogramSample {
		return []histogramSample{{Counts: m.requests}}
	}},
	{name: "port_info", help: "A port; the value is 1.", kind: gauge, labels: "port network name mac ifname", samples: func(m *measurement, e emit) {
		for _, n := range m.networks {
			for _, p := range n.Ports {
				e(1, p.UUID, n.Info.Name, p.Name, p.MAC, p.IfName)
			}
		}
	}},
	// From the guest's point of view: what the host sends to a TAP device the
	// guest receives.
	portCounter("receive_bytes", "Bytes that the guest received.", func(c bridge.Counters) uint64 { return c.TxBytes }),
	portCounter("receive_packets", "Packets that the guest received.", func(c bridge.Counters) uint64 { return c.TxPackets }),
	portCounter("receive_errors", "Packets for the guest that failed.", func(c bridge.Counters) uint64 { return c.TxErrors }),
	portCounter("receive_drops", "Packets for the guest that were dropped, as it did not take them in time.", func(c bridge.Counters) uint64 { return c.TxDropped }),
	portCounter("transmit_bytes", "Bytes that the guest sent.", func(c bridge.Counters) uint64 { return c.RxBytes }),
	portCounter("transmit_packets", "Packets that the guest sent.", func(c bridge.Counters) uint64 { return c.RxPackets }),
	portCounter("transmit_errors", "Packets of the guest that failed.", func(c bridge.Counters) uint64 { return c.RxErrors }),
	portCounter("transmit_drops", "Packets of the guest that were dropped.", func(c bridge.Counters) uint64 { return c.RxDropped }),

	{name: "port_guard_stopped_total", help: "Frames of the guest that its port's guard has stopped, by kind.", kind: counter, labels: "port kind", samples: func(m *measurement, e emit) {
		for port, kinds := range m.stopped {
			for kind, frames := range kinds {
				e(float64(frames), port, kind.String())
			}
		}
	}},

	{name: "forward_active", help: "Whether the forward leads to its guest.", kind: gauge, labels: "forward network protocol ports address", samples: eachForward(func(f api.Forward) (float64, bool) {
		return truth(f.State == api.ForwardActive), true
	})},
	{name: "forward_connections", help: "Connections that go on by the forward.", kind: gauge, labels: "forward network protocol ports address", samples: eachForward(func(f api.Forward) (float64, bool) {
		return float64(orZero(f.Connections)), f.Connections != nil
	})},
	{name: "forward_connection_packets", help: "Packets of these connections so far, where the kernel counts them.", kind: gauge, labels: "forward network protocol ports address", samples: eachForward(func(f api.Forward) (float64, bool) {
		return float64(orZero(f.Packets)), f.Packets != nil
	})},
	{name: "forward_connection_bytes", help: "Bytes of these connections so far, where the kernel counts them.", kind: gauge, labels: "forward network protocol ports address", samples: eachForward(func(f api.Forward) (float64, bool) {
		return float64(orZero(f.Bytes)), f.Bytes != nil
	})},

	{name: "dhcp_messages_total", help: "DHCP messages understood or sent, by type.", kind: counter, labels: "network family type", samples: eachNetwork(dhcpMessages)},
	{name: "dhcp_dropped_total", help: "DHCP messages left without an answer, by reason.", kind: counter, labels: "network family reason", samples: eachDHCP(func(c dhcpd.Common, e emit) {
		each(e, []count{
			{"malformed", c.Malformed},
			{"ignored", c.Ignored},
			{"exhausted", c.Exhausted},
			{"overload", c.Overload},
			{"limited", c.Limited},
			{"panic", c.Panics},
			{"send-error", c.SendErrors},
			{"commit-failure", c.CommitFailures},
		})
	})},
	{name: "dhcp_naks_total", help: "Requests that DHCPv4 refused.", kind: counter, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		if n.DHCP != nil {
			e(float64(n.DHCP.Nak), n.Info.Name)
		}
	})},
	{name: "dhcp_conflicts_total", help: "Addresses that were found in use by somebody else.", kind: counter, labels: "network family", samples: eachDHCP(func(c dhcpd.Common, e emit) { e(float64(c.Conflicts)) })},
	{name: "dhcp_pool_size", help: "Addresses that any guest may get.", kind: gauge, labels: "network family", samples: eachDHCP(func(c dhcpd.Common, e emit) { e(float64(c.Pool.Dynamic)) })},
	{name: "dhcp_pool_used", help: "Addresses that have a lease.", kind: gauge, labels: "network family", samples: eachDHCP(func(c dhcpd.Common, e emit) { e(float64(c.Pool.Bound)) })},
	{name: "dhcp_commit_seconds", help: "Time that it took to write leases to disk.", kind: "histogram", histograms: dhcpCommits},

	{name: "dns_queries_total", help: "Queries answered, by where the answer came from and by rcode.", kind: counter, labels: "network source rcode", samples: eachDNS(func(s *dnsd.Stats, e emit) {
		for _, a := range s.Answers {
			e(float64(a.Count), a.Source, a.Rcode)
		}
	})},
	{name: "dns_rejected_total", help: "Queries without an answer that helps, by reason.", kind: counter, labels: "network reason", samples: eachDNS(func(s *dnsd.Stats, e emit) {
		each(e, []count{
			{"refused", s.Refused},
			{"malformed", s.Malformed},
			{"dropped", s.Dropped},
			{"limited", s.Limited},
			{"failed", s.Failed},
			{"panic", s.Panics},
		})
	})},
	{name: "dns_answer_seconds", help: "Time from a query to its answer, with or without waiting for an upstream server.", kind: "histogram", labels: "upstream", histograms: dnsAnswers},
	{name: "dns_upstream_queries_total", help: "Questions sent to the upstream server.", kind: counter, labels: "network server", samples: eachAsked(func(a dnsd.Asked) float64 { return float64(a.Queries) })},
	{name: "dns_upstream_failures_total", help: "Questions that the upstream server left unanswered, or answered with SERVFAIL, REFUSED or the like.", kind: counter, labels: "network server", samples: eachAsked(func(a dnsd.Asked) float64 { return float64(a.Failures) })},
	{name: "dns_upstream_rtt_seconds", help: "Time that the upstream server takes to answer, smoothed; 0 until it has.", kind: gauge, labels: "network server", samples: eachAsked(func(a dnsd.Asked) float64 { return a.RTT.Seconds() })},
	{name: "dns_upstream_up", help: "Whether the upstream server has answered of late.", kind: gauge, labels: "network server domain", samples: eachNetwork(func(n network.Stats, e emit) {
		for _, u := range n.Upstreams {
			e(truth(!u.Failing), n.Info.Name, u.Addr.String(), u.Domain)
		}
	})},
	{name: "dns_forwarding", help: "Queries that wait for an upstream server.", kind: gauge, labels: "network", samples: eachDNS(func(s *dnsd.Stats, e emit) { e(float64(s.Forwarding)) })},
	{name: "dns_tcp_clients", help: "TCP connections of clients.", kind: gauge, labels: "network", samples: eachDNS(func(s *dnsd.Stats, e emit) { e(float64(s.TCPClients)) })},
	{name: "dns_cache_entries", help: "Answers kept.", kind: gauge, labels: "network", samples: eachDNS(func(s *dnsd.Stats, e emit) { e(float64(s.CacheEntries)) })},
	{name: "dns_cache_bytes", help: "Size of the answers kept.", kind: gauge, labels: "network", samples: eachDNS(func(s *dnsd.Stats, e emit) { e(float64(s.CacheBytes)) })},

	{name: "ra_sent_total", help: "Router advertisements sent.", kind: counter, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		if n.RA != nil {
			e(float64(n.RA.Unicast+n.RA.Multicast), n.Info.Name)
		}
	})},
	{name: "tftp_transfers_total", help: "TFTP transfers that ended well.", kind: counter, labels: "network", samples: eachNetwork(func(n network.Stats, e emit) {
		if n.TFTP != nil {
			e(float64(n.TFTP.Done), n.Info.Name)
		}
	})},

	{name: "cluster_connected", help: "Whether the store of the cluster is reached, and has what this host says.", kind: gauge, labels: "cluster", samples: eachCluster(func(c *network.ClusterStats, e emit) {
		e(truth(c.Connected))
	})},
	{name: "cluster_revision", help: "Revision of the store up to which this host has seen it.", kind: gauge, labels: "cluster", samples: eachCluster(func(c *network.ClusterStats, e emit) {
		e(float64(c.Revision))
	})},
	{name: "cluster_mirror_backlog", help: "Leases whose newest state the store has not.", kind: gauge, labels: "cluster", samples: eachCluster(func(c *network.ClusterStats, e emit) {
		e(float64(c.Backlog))
	})},
	{name: "cluster_moves_total", help: "Times that a guest's card was seen to move from one host to another.", kind: counter, labels: "cluster", samples: eachCluster(func(c *network.ClusterStats, e emit) {
		e(float64(c.Moves))
	})},
	{name: "cluster_hosts", help: "Hosts of the cluster, by state: this one, and others whose vnetd talks to the store, does not, or of which that is not known.", kind: gauge, labels: "cluster state", samples: eachCluster(clusterHosts)},
	{name: "cluster_blocks", help: "Blocks of addresses of the network, by whose they are.", kind: gauge, labels: "cluster network state", samples: eachCluster(clusterBlocks)},
	{name: "bgp_neighbour_up", help: "Whether the session with the neighbour is up.", kind: gauge, labels: "neighbour", samples: eachNeighbour(neighbourUp)},
	{name: "bgp_neighbour_flaps_total", help: "Times that the session with the neighbour went down since vnetd started.", kind: counter, labels: "neighbour", samples: eachNeighbour(func(n *api.BGPNeighbour) float64 { return float64(n.Flaps) })},
	{name: "bgp_announced_prefixes", help: "Prefixes of which neighbours are told.", kind: gauge, samples: announcedPrefixes},

	{name: "firewall_info", help: "By what rules of networks are written, iptables or nftables; always 1.", kind: gauge, labels: "backend", samples: func(m *measurement, e emit) {
		e(1, m.firewall.Backend)
	}},
	{name: "firewall_repairs_total", help: "Times that firewall rules were put back, by likely cause.", kind: counter, labels: "cause", samples: func(m *measurement, e emit) {
		for _, cause := range firewall.Causes() { // from zero on: who comes later sees the first as well
			e(float64(m.firewall.ByCause[cause]), string(cause))
		}
	}},
	{name: "firewall_repair_failures_total", help: "Repairs of the firewall that failed.", kind: counter, samples: func(m *measurement, e emit) { e(float64(m.firewall.Failed)) }},
	{name: "firewall_contended", help: "Whether another program keeps removing rules.", kind: gauge, samples: func(m *measurement, e emit) { e(truth(m.firewall.Contended)) }},
	{name: "firewall_offloaded_connections", help: "Established connections that go past the rules by a flowtable.", kind: gauge, samples: func(m *measurement, e emit) { e(float64(m.offloaded)) }},
	{name: "firewall_conflict", help: "Rules, policies and settings of others that cut guests off, by kind.", kind: gauge, labels: "kind", samples: conflicts},
	{name: "conditions", help: "What is amiss on the host, by severity; see vnetctl doctor.", kind: gauge, labels: "severity", samples: conditionCounts},
	{name: "nat_conntrack_entries", help: "Connections that the host's kernel tracks.", kind: gauge, samples: conntrack(func(c *api.Conntrack) uint64 { return c.Entries })},
	{name: "nat_conntrack_limit", help: "Connections that the host's kernel can track.", kind: gauge, samples: conntrack(func(c *api.Conntrack) uint64 { return c.Limit })},
}

// eachNetwork makes samples of every network.
func eachNetwork(f func(n network.Stats, e emit)) func(*measurement, emit) {
	return func(m *measurement, e emit) {
		for _, n := range m.networks {
			f(n, e)
		}
	}
}

// eachCluster makes samples of every cluster, whose name goes before the labels.
func eachCluster(f func(c *network.ClusterStats, e emit)) func(*measurement, emit) {
	return func(m *measurement, e emit) {
		for i := range m.clusters {
			c := &m.clusters[i]
			f(c, func(value float64, labels ...string) { e(value, append([]string{c.Name}, labels...)...) })
		}
	}
}

// eachNeighbour makes a sample of every router that is told of networks.
func eachNeighbour(value func(n *api.BGPNeighbour) float64) func(*measurement, emit) {
	return func(m *measurement, e emit) {
		if m.bgp == nil {
			return
		}
		for i := range m.bgp.Neighbours {
			n := &m.bgp.Neighbours[i]
			e(value(n), n.Address.String())
		}
	}
}

// announcedPrefixes counts what routers are told of.
func announcedPrefixes(m *measurement, e emit) {
	if m.bgp != nil {
		e(float64(len(m.bgp.Prefixes)))
	}
}

// neighbourUp is 1 for a router whose session is up.
func neighbourUp(n *api.BGPNeighbour) float64 {
	if n.Up {
		return 1
	}
	return 0
}

// clusterHosts counts hosts of each state, none included.
func clusterHosts(c *network.ClusterStats, e emit) {
	counts := map[string]int{}
	for _, h := range c.Hosts {
		counts[h.State]++
	}
	for _, state := range []string{api.HostSelf, api.HostAlive, api.HostSilent, api.HostUnknown} {
		e(float64(counts[state]), state)
	}
}

// clusterBlocks counts the blocks of each network.
func clusterBlocks(c *network.ClusterStats, e emit) {
	for name, b := range c.Blocks {
		e(float64(b.Mine), name, "mine")
		e(float64(b.Others), name, "others")
	}
}

// eachForward makes a sample of every forward of which there is a value.
func eachForward(value func(f api.Forward) (v float64, has bool)) func(*measurement, emit) {
	return func(m *measurement, e emit) {
		for _, f := range m.forwards {
			if v, has := value(f); has {
				e(v, f.UUID, f.Network, f.Protocol, f.Ports, f.Address)
			}
		}
	}
}

// orZero is what p points to, 0 for nil.
func orZero[T int | uint64](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// eachDHCP makes samples of every DHCP server; network and family go before the
// labels.
func eachDHCP(f func(c dhcpd.Common, e emit)) func(*measurement, emit) {
	return func(m *measurement, e emit) {
		eachCommon(m, func(name, family string, c dhcpd.Common) {
			f(c, func(value float64, labels ...string) { e(value, append([]string{name, family}, labels...)...) })
		})
	}
}

// eachCommon calls f with what every DHCP server counts.
func eachCommon(m *measurement, f func(name, family string, c dhcpd.Common)) {
	for _, n := range m.networks {
		if n.DHCP != nil {
			f(n.Info.Name, "ipv4", n.DHCP.Common)
		}
		if n.DHCP6 != nil {
			f(n.Info.Name, "ipv6", n.DHCP6.Common)
		}
	}
}

// eachDNS makes samples of every name service; the network goes before the labels.
func eachDNS(f func(s *dnsd.Stats, e emit)) func(*measurement, emit) {
	return eachNetwork(func(n network.Stats, e emit) {
		if n.DNS != nil {
			f(n.DNS, func(value float64, labels ...string) { e(value, append([]string{n.Info.Name}, labels...)...) })
		}
	})
}

// eachAsked makes a sample of every server that a name service asks.
func eachAsked(f func(dnsd.Asked) float64) func(*measurement, emit) {
	return eachNetwork(func(n network.Stats, e emit) {
		for _, a := range n.Asked {
			e(f(a), n.Info.Name, a.Addr.String())
		}
	})
}

// portCounter is a counter of the ports' devices.
func portCounter(name, help string, get func(bridge.Counters) uint64) family {
	return family{name: "port_" + name + "_total", help: help, kind: counter, labels: "port", samples: func(m *measurement, e emit) {
		for _, n := range m.networks {
			for _, p := range n.Ports {
				if c, ok := m.links[p.IfName]; ok {
					if p.Macvtap {
						c = c.Swapped()
					}
					e(float64(get(c)), p.UUID)
				}
			}
		}
	}}
}

// count is a number and the value of the last label.
type count struct {
	label string
	n     uint64
}

// each makes a sample of every count.
func each(e emit, counts []count) {
	for _, c := range counts {
		e(float64(c.n), c.label)
	}
}

// dhcpMessages are the messages of both families by their names in the RFCs.
func dhcpMessages(n network.Stats, e emit) {
	of := func(family string) emit {
		return func(value float64, labels ...string) { e(value, n.Info.Name, family, labels[0]) }
	}
	if d := n.DHCP; d != nil {
		each(of("ipv4"), []count{
			{"discover", d.Discover},
			{"request", d.Request},
			{"decline", d.Decline},
			{"release", d.Release},
			{"inform", d.Inform},
			{"bootp", d.BOOTP},
			{"offer", d.Offer},
			{"ack", d.Ack},
			{"nak", d.Nak},
		})
	}
	if d := n.DHCP6; d != nil {
		each(of("ipv6"), []count{
			{"solicit", d.Solicit},
			{"request", d.Request},
			{"confirm", d.Confirm},
			{"renew", d.Renew},
			{"rebind", d.Rebind},
			{"release", d.Release},
			{"decline", d.Decline},
			{"information-request", d.InformationRequest},
			{"advertise", d.Advertise},
			{"reply", d.Reply},
		})
	}
}

// dhcpCommits is how long leases took to the disk: all networks' together, as they
// share it.
func dhcpCommits(m *measurement) []histogramSample {
	var all histogramSample
	eachCommon(m, func(_, _ string, c dhcpd.Common) {
		all.Counts = all.Plus(c.CommitLatency)
	})
	return []histogramSample{all}
}

// dnsAnswers is how long DNS queries took: all networks' together.
func dnsAnswers(m *measurement) []histogramSample {
	without, with := histogramSample{label: "false"}, histogramSample{label: "true"}
	for _, n := range m.networks {
		if n.DNS != nil {
			without.Counts = without.Plus(n.DNS.AtOnce)
			with.Counts = with.Plus(n.DNS.Forwarded)
		}
	}
	return []histogramSample{without, with}
}

// conflicts counts what pkg/firewall found of each kind, none included: an alert
// needs a zero to come from.
func conflicts(m *measurement, e emit) {
	for _, kind := range []firewall.Kind{firewall.KindPolicy, firewall.KindDrop, firewall.KindDiverted, firewall.KindBridgeNetfilter, firewall.KindForwardingOff} {
		count := 0
		for _, c := range m.conditions {
			if c.Kind == string(kind) && c.Severity != api.SeverityInfo {
				count++
			}
		}
		e(float64(count), string(kind))
	}
}

// conditionCounts counts conditions of each severity.
func conditionCounts(m *measurement, e emit) {
	counts := map[api.Severity]int{}
	for _, c := range m.conditions {
		counts[c.Severity]++
	}
	for _, severity := range []api.Severity{api.SeverityInfo, api.SeverityWarning, api.SeverityError} {
		e(float64(counts[severity]), string(severity))
	}
}

// conntrack is a figure of the kernel's connection tracking, where it runs.
func conntrack(figure func(*api.Conntrack) uint64) func(*measurement, emit) {
	return func(_ *measurement, e emit) {
		if c := network.Conntrack(); c != nil {
			e(float64(figure(c)))
		}
	}
}

// truth is 1 for true.
func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
