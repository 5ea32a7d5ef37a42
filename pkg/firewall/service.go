package firewall

import (
	"net/netip"
	"slices"
)

// service is a protocol and the port to which packets of it go.
type service struct {
	proto string
	port  uint16
}

// accept is one rule like r per service.
func accept(r Rule, services []service) []Rule {
	var rules []Rule
	for _, s := range services {
		r.Protocol, r.Port = s.proto, s.port
		rules = append(rules, r)
	}
	return rules
}

// dns is the name service: RFC 1035 section 4.2 has it on both transports.
func dns() []service {
	return []service{{"udp", 53}, {"tcp", 53}}
}

// requests are what guests may ask this host. DHCP stands here for TCP too
// because libvirt's driver has always opened both.
func (n Network) requests(f Family) []service {
	if f == IPv6 {
		return n.ifSubnets6(slices.Concat([]service{{"udp", 547}}, dns(), n.otherDNS(f)))
	}
	return slices.Concat(n.tftp(), dns(), []service{{"udp", 67}, {"tcp", 67}}, n.otherDNS(f))
}

// replies are what this host may send to guests unasked by conntrack.
func (n Network) replies(f Family) []service {
	if f == IPv6 {
		return n.ifSubnets6(slices.Concat([]service{{"udp", 546}}, dns()))
	}
	return slices.Concat(n.tftp(), dns(), []service{{"udp", 68}, {"tcp", 68}})
}

// ifSubnets6 drops the services where the network has no IPv6 subnet: with
// ipv6='yes' alone the host has no address on the bridge to serve from.
func (n Network) ifSubnets6(s []service) []service {
	if len(n.SubnetsOf(IPv6)) == 0 {
		return nil
	}
	return s
}

// tftp is the boot file service, for networks that have it.
func (n Network) tftp() []service {
	if !n.TFTP {
		return nil
	}
	return []service{{"udp", 69}}
}

// redirects lead guests' queries to the gateway to where its name server
// listens, for want of port 53.
func (n Network) redirects(f Family) []Rule {
	var rules []Rule
	for _, at := range n.dnsOf(f) {
		host := netip.PrefixFrom(at.Addr(), at.Addr().BitLen())
		rules = append(rules, accept(Rule{
			Family: f, Path: Redirection, Destination: host, In: n.Bridge,
			Verdict: Redirect, Ports: PortRange{Start: at.Port(), End: at.Port()},
		}, dns())...)
	}
	return rules
}

// otherDNS is the name service where it listens instead of at port 53.
func (n Network) otherDNS(f Family) []service {
	var other []service
	for _, at := range n.dnsOf(f) {
		for _, s := range dns() {
			s.port = at.Port()
			if !slices.Contains(other, s) {
				other = append(other, s)
			}
		}
	}
	return other
}

// dnsOf are the addresses of one family in n.DNS.
func (n Network) dnsOf(f Family) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(n.DNS), func(at netip.AddrPort) bool { return at.Addr().Is4() != (f == IPv4) })
}
