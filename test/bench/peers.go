package main

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/iptables"
)

// How many peers and rules there are, and how many of the last are timed.
const (
	manyPeers  = 200
	timedPeers = 10
)

// peersBench prints what it costs to add a peer, and a rule, to many, and what they cost
// packets that none of them is about.
func peersBench(b *bench) {
	guest := guestToLAN(b)
	t := new(table)
	t.add("by", "peers and rules", "one more peer", "one more rule", "connections/s", "CPU a packet")
	for _, s := range []struct {
		name string
		make func(b *bench) *firewall.Firewall
	}{
		{"vnetd, nftables", newTables},
		{"vnetd, iptables", func(b *bench) *firewall.Firewall { return newFirewall(b, iptables.Config{}) }},
	} {
		for _, count := range []int{0, manyPeers} {
			b.play(func(b *bench) {
				flushRules(b)
				f := s.make(b)
				peer := timeChanges(b, f, withPeers(count, count), func(n *firewall.Network, i int) { n.Peers = append(n.Peers, peerAt(count+i)) })
				rule := timeChanges(b, f, withPeers(count, count), func(n *firewall.Network, i int) { n.Policy.Rules = append(n.Policy.Rules, ruleAt(count+i)) })
				setNetwork(b, f, withPeers(count, count))
				var got traffic
				var cost guardCost
				for range trafficRounds {
					got.better(loadLAN(b, guest))
					for range packetRounds {
						cost.better(flood(b, guest))
					}
				}
				t.add(s.name, strconv.Itoa(count), millis(peer), millis(rule), strconv.Itoa(int(got.Connections)), fmt.Sprintf("%d ns", cost.each.Nanoseconds()))
			})
		}
	}
	flushRules(b)
	b.printf("%s", t)
	b.printf("  one network with so many of either, of one service each; one more: the median of %d, in the kernel\n", timedPeers)
	b.printf("  guest to a host of the LAN, which no rule is about, through veth devices, as in firewall\n")
}

// withPeers is the guest's network with so many peers and rules.
func withPeers(peers, rules int) firewall.Network {
	n := numbered(0, firewall.ModeNAT)
	for i := range peers {
		n.Peers = append(n.Peers, peerAt(i))
	}
	for i := range rules {
		n.Policy.Rules = append(n.Policy.Rules, ruleAt(i))
	}
	return n
}

// peerAt is one of many peers.
func peerAt(i int) firewall.Peer {
	n := numbered(1+i, firewall.ModeNAT)
	return firewall.Peer{Bridge: n.Bridge, Name: n.Bridge, Subnets: n.Subnets, Services: []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{Start: 5432, End: 5432}}}}
}

// ruleAt is one of many rules.
func ruleAt(i int) firewall.PolicyRule {
	return firewall.PolicyRule{
		Direction: firewall.Egress, Action: firewall.ActionReject, Label: fmt.Sprintf("rule %d", i+1),
		Remote:   []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(i)}), 32)},
		Services: []firewall.Service{{Protocol: "tcp", Ports: firewall.PortRange{Start: 25, End: 25}}},
	}
}

// setNetwork has a network's rules be as it says.
func setNetwork(b *bench, f *firewall.Firewall, n firewall.Network) {
	if err := f.Set(b.Context(), n); err != nil {
		b.Fatalf("writing rules: %w", err)
	}
}

// timeChanges is the median of what it takes to change a network once more.
func timeChanges(b *bench, f *firewall.Firewall, n firewall.Network, change func(n *firewall.Network, i int)) time.Duration {
	setNetwork(b, f, n)
	var took []time.Duration
	for i := range timedPeers {
		change(&n, i)
		begin := time.Now()
		setNetwork(b, f, n)
		took = append(took, time.Since(begin))
	}
	return quantile(took, 0.5)
}

// guestToLAN makes a bridge with a guest on it, and a way to the LAN.
func guestToLAN(b *bench) *nstest.NS {
	nstest.IP(b, "link add "+bridge+" address 52:54:00:00:00:01 type bridge")
	nstest.IP(b, "link set "+bridge+" up")
	b.Cleanup(func() { nstest.IP(b, "link del "+bridge) })
	guest := nstest.Guest(b, bridge, "guest", guardCard.String())
	subnet := numbered(0, firewall.ModeNAT).Subnets[0]
	nstest.IP(b, "addr add "+subnet.String()+" dev "+bridge)
	guest.IP("addr add " + manyGuest + " dev " + guestLink)
	guest.IP("route add default via " + subnet.Addr().String())
	b.lab.LAN.IP("route replace " + subnet.Masked().String() + " via " + nstest.Uplink)
	nstest.Exec(b, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	return guest
}
