package netdef_test

// natRules is a NAT network with those vnetd elements.
func natRules(inside string) string { return extended(natHere + inside) }

// policyRows are peerings and rules that can't be.
func policyRows() []faultRow {
	const rules, rule = "network/vnetd:rules", "network/vnetd:rules/vnetd:rule[1]"
	one := func(attrs string) string { return natRules("<vnetd:rules><vnetd:rule " + attrs + "/></vnetd:rules>") }
	return []faultRow{
		{"peer of nobody", natRules("<vnetd:peer/>"), []string{"network/vnetd:peer[1]/@network: missing, want the name of another network"}},
		{"peer without a name", natRules("<vnetd:peer network=''/>"), []string{"network/vnetd:peer[1]/@network: missing, want the name of another network"}},
		{"peer of itself", natRules("<vnetd:peer network='n'/>"), []string{"network/vnetd:peer[1]/@network: 'n': is this network, whose guests reach each other: want another"}},
		{"peer twice", natRules("<vnetd:peer network='db' direction='in'/><vnetd:peer network='db'/>"), []string{
			"network/vnetd:peer[2]/@network: 'db': has a <vnetd:peer> of that direction already: want all services in one",
		}},
		{"peer to nowhere", natRules("<vnetd:peer network='db' direction='up'/>"), []string{"network/vnetd:peer[1]/@direction: 'up': want out or in or both"}},
		{"peer of a service", natRules("<vnetd:peer network='db' ports='http'/>"), []string{
			`network/vnetd:peer[1]/@ports: 'http': "http" is no service: want such as tcp/5432, udp/8000-8010 or icmp`,
		}},
		{"peer of no service", natRules("<vnetd:peer network='db' ports=' '/>"), []string{
			"network/vnetd:peer[1]/@ports: ' ': want services such as tcp/5432, udp/53 or icmp, with blanks between",
		}},
		{"peer of icmp's ports", natRules("<vnetd:peer network='db' ports='icmp/8'/>"), []string{
			`network/vnetd:peer[1]/@ports: 'icmp/8': "icmp/8" is no service: want such as tcp/5432, udp/8000-8010 or icmp`,
		}},
		{"peer of a large port", natRules("<vnetd:peer network='db' ports='tcp/70000'/>"), []string{
			`network/vnetd:peer[1]/@ports: 'tcp/70000': "tcp/70000": "70000": want ports from 1 to 65535, and ranges like 8000-8080`,
		}},
		{"peer on the LAN", lan("<vnetd:peer network='db'/>"), []string{"network/vnetd:peer: not allowed in mode bridge: want nat, route or no <forward>"}},
		{"rules of an open network", extended("<forward mode='open'/><vnetd:rules egress='drop'/>"), []string{
			"network/vnetd:rules: not allowed in mode open: want nat, route or no <forward>",
		}},
		{"rules twice", natRules("<vnetd:rules egress='drop'/><vnetd:rules/>"), []string{"network/vnetd:rules[2]: only one <vnetd:rules> is allowed"}},
		{"default", natRules("<vnetd:rules egress='deny' color='red'/>"), []string{
			"network/vnetd:rules/@egress: 'deny': want allow or reject or drop",
			"network/vnetd:rules/@color: 'red': the attribute is not known to this version of vnetd",
		}},
		{"rule of nothing", one(""), []string{rule + "/@direction: missing, want egress or ingress", rule + "/@action: missing, want allow, reject or drop"}},
		{"rule of words", one("direction='out' action='permit' proto='gre' log='1'"), []string{
			rule + "/@direction: 'out': want egress or ingress", rule + "/@action: 'permit': want allow or reject or drop",
			rule + "/@proto: 'gre': want tcp, udp, sctp or icmp", rule + "/@log: '1': want yes or no",
		}},
		{"rule of ports alone", one("direction='egress' action='allow' ports='80'"), []string{rule + "/@ports: '80': want proto tcp, udp or sctp with ports"}},
		{"rule of reversed ports", one("direction='egress' action='allow' proto='tcp' ports='90-80'"), []string{
			rule + `/@ports: '90-80': "90-80": want ports from 1 to 65535, and ranges like 8000-8080`,
		}},
		{"egress from", one("direction='egress' action='allow' from='192.0.2.1'"), []string{rule + "/@from: '192.0.2.1': not allowed at egress: want to"}},
		{"ingress to", one("direction='ingress' action='allow' to='192.0.2.1'"), []string{rule + "/@to: '192.0.2.1': not allowed at ingress: want from"}},
		{"ingress by name", one("direction='ingress' action='allow' from='www.example.org'"), []string{
			rule + "/@from: 'www.example.org': a name at ingress: guests ask for names of what they open. Want addresses and subnets",
		}},
		{"to a guest", one("direction='egress' action='allow' to='web1'"), []string{
			rule + `/@to: 'web1': "web1" is a name of one label, as guests have: want a whole name such as www.example.org, or an address. Guests of one network reach each other without rules, those of another by <vnetd:peer>`,
		}},
		{"to a guest's whole name", natRules("<domain name='Web.example'/><vnetd:rules><vnetd:rule direction='egress' action='allow' to='web1.web.example'/></vnetd:rules>"), []string{
			rule + "/@to: 'web1.web.example': is in the domain web.example of this network, whose guests reach each other without rules: want a name outside",
		}},
		{"to a host bit", one("direction='egress' action='allow' to='192.0.2.1/24'"), []string{
			rule + `/@to: '192.0.2.1/24': "192.0.2.1/24" is an address in a subnet, want 192.0.2.0/24 or 192.0.2.1`,
		}},
		{"to half an address", one("direction='egress' action='allow' to='192.0.2'"), []string{
			rule + `/@to: '192.0.2': "192.0.2" is no address, want such as 198.51.100.7`,
		}},
		{"to a mapped address", one("direction='egress' action='allow' to='::ffff:192.0.2.0/120'"), []string{
			rule + `/@to: '::ffff:192.0.2.0/120': "::ffff:192.0.2.0/120" is no subnet, want such as 198.51.100.0/24`,
		}},
		{"to no set", one("direction='egress' action='allow' to='@none'"), []string{rule + "/@to: '@none': there is no such <vnetd:set>"}},
		{"to a strange set", one("direction='egress' action='allow' to='@a/b'"), []string{
			rule + `/@to: '@a/b': "@a/b": want the name of a set: 1 to 63 letters, digits, hyphens, dots and underscores`,
		}},
		{"empty set", natRules("<vnetd:rules><vnetd:set name='a'/></vnetd:rules>"), []string{
			rules + "/vnetd:set[1]: want subnets, addresses, names and @sets, with blanks between",
		}},
		{"sets", natRules("<vnetd:rules><vnetd:set name='a'>192.0.2.1</vnetd:set><vnetd:set name='a'>@a</vnetd:set><vnetd:set>192.0.2.1</vnetd:set></vnetd:rules>"), []string{
			rules + "/vnetd:set[2]/@name: 'a': want each name once",
			rules + "/vnetd:set[2]: '@a': a set in a set: want addresses, subnets and names",
			rules + "/vnetd:set[3]/@name: want the name of a set: 1 to 63 letters, digits, hyphens, dots and underscores",
		}},
		{"names without DNS", natRules("<dns enable='no'/><vnetd:rules><vnetd:rule direction='egress' action='allow' to='www.example.org'/></vnetd:rules>"), []string{
			rule + "/@to: 'www.example.org': a name, where guests don't ask vnetd for names: want an address, or no <dns enable='no'/>",
		}},
	}
}
