package ruleset

import "strings"

// symbolTable is the table of names of a field's values.
func symbolTable(field string) string {
	switch {
	case field == "meta l4proto", field == "ip protocol", field == "ip6 nexthdr", field == "ct protocol":
		return "protocol"
	case field == "meta protocol", field == "ether type", field == "vlan type", field == "arp ptype":
		return "ethertype"
	case strings.HasPrefix(field, "fib ") && strings.HasSuffix(field, " type"):
		return "fib type"
	case strings.HasSuffix(field, "port"):
		return "port"
	}
	return field
}

// symbols are the names of values as the programs print them. Bits of a connection's
// state and status are those of the kernel's nf_conntrack_common.h, types of routes
// those of rtnetlink.h.
var symbols = map[string]map[string]uint64{
	"protocol": {
		"icmp": 1, "igmp": 2, "ipencap": 4, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "esp": 50, "ah": 51, "ipv6": 41,
		"icmpv6": 58, "ipv6-icmp": 58, "ospf": 89, "vrrp": 112, "sctp": 132, "udplite": 136, "comp": 108, "ipcomp": 108,
	},
	"ethertype":    {"ip": 0x0800, "arp": 0x0806, "ip6": 0x86dd, "vlan": 0x8100, "8021q": 0x8100, "8021ad": 0x88a8, "ipv4": 0x0800, "ipv6": 0x86dd},
	"meta nfproto": {"ipv4": 2, "ipv6": 10, "bridge": 7, "arp": 3, "netdev": 5},
	"ct state":     {"invalid": 1, "established": 2, "related": 4, "new": 8, "untracked": 64},
	"ct status":    {"expected": 1, "seen-reply": 2, "assured": 4, "confirmed": 8, "snat": 16, "dnat": 32, "dying": 512},
	"ct direction": {"original": 0, "reply": 1},
	"meta pkttype": {"host": 0, "unicast": 0, "broadcast": 1, "multicast": 2, "other": 3},
	"fib type":     {"unspec": 0, "unicast": 1, "local": 2, "broadcast": 3, "anycast": 4, "multicast": 5, "blackhole": 6, "unreachable": 7, "prohibit": 8},
	"icmp type": {
		"echo-reply": 0, "destination-unreachable": 3, "source-quench": 4, "redirect": 5, "echo-request": 8, "router-advertisement": 9,
		"router-solicitation": 10, "time-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14,
		"info-request": 15, "info-reply": 16, "address-mask-request": 17, "address-mask-reply": 18,
	},
	"icmpv6 type": {
		"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4, "echo-request": 128, "echo-reply": 129,
		"mld-listener-query": 130, "mld-listener-report": 131, "mld-listener-done": 132, "mld-listener-reduction": 132,
		"nd-router-solicit": 133, "nd-router-advert": 134, "nd-neighbor-solicit": 135, "nd-neighbor-advert": 136, "nd-redirect": 137,
		"router-solicitation": 133, "router-advertisement": 134, "neighbour-solicitation": 135, "neighbor-solicitation": 135,
		"neighbour-advertisement": 136, "neighbor-advertisement": 136, "redirect": 137, "mld2-listener-report": 143,
	},
	"tcp flags":     {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ecn": 64, "cwr": 128, "none": 0, "all": 63},
	"arp operation": {"request": 1, "reply": 2},
	"port":          {"domain": 53, "bootps": 67, "bootpc": 68, "tftp": 69, "http": 80, "https": 443, "ssh": 22},
	"ip dscp":       {"cs0": 0},
}
