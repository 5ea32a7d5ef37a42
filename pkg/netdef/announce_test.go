package netdef_test

import (
	"strings"
	"testing"
)

// routedHere is a network whose guests are reached from outside.
const routedHere = "<forward mode='route'/><ip address='192.0.2.1' prefix='24'/>"

// announceRows are documents with faults of <vnetd:announce>.
func announceRows() []faultRow {
	const span = "<vnetd:span vni='7' underlay='203.0.113.1'><vnetd:peer underlay='203.0.113.2'/></vnetd:span>"
	return []faultRow{
		{"words of an announcement", extended(routedHere + "<vnetd:announce subnets='all' guests='some' as='64512'/><vnetd:announce/>"), []string{
			"network/vnetd:announce[2]: only one <vnetd:announce> is allowed",
			"network/vnetd:announce/@subnets: 'all': want yes or no",
			"network/vnetd:announce/@guests: 'some': want yes or no",
			"network/vnetd:announce/@as: '64512': the attribute is not known to this version of vnetd",
		}},
		{"an announcement of what nobody reaches", extended("<forward mode='nat'/><ip address='192.0.2.1' prefix='24'/><vnetd:announce/>"), []string{
			"network/vnetd:announce: not allowed in mode nat, whose guests are not reached by their addresses from outside: want route or open",
		}},
		{"an announcement of an isolated network", extended("<ip address='192.0.2.1' prefix='24'/><vnetd:announce/>"), []string{
			"network/vnetd:announce: not allowed in mode none, whose guests are not reached by their addresses from outside: want route or open",
		}},
		{"an announcement of nothing", extended(routedHere + "<vnetd:announce subnets='no'/>"), []string{
			"network/vnetd:announce: announces nothing: want subnets='yes' or guests='yes', or no <vnetd:announce>",
		}},
		{"an announcement without an address", extended("<forward mode='open'/><vnetd:announce/>"), []string{
			"network/vnetd:announce: there is no <ip>, of which something could be announced",
		}},
		{"subnets of a span", extended(routedHere + span + "<vnetd:announce subnets='yes'/>"), []string{
			"network/vnetd:announce/@subnets: 'yes': not possible with <vnetd:span>: a host is the way to its own guests alone: want guests='yes'",
		}},
		{"a span without its guests", extended(routedHere + span + "<vnetd:announce guests='no'/>"), []string{
			"network/vnetd:announce: announces nothing: want subnets='yes' or guests='yes', or no <vnetd:announce>",
		}},
	}
}

// TestAnnounce reads and prints what routers are told of a network.
func TestAnnounce(t *testing.T) {
	for _, tt := range []struct {
		inside                               string
		subnets, guests, allSubnets, spanned bool // of one host, and of several
	}{
		{"", false, false, false, false},
		{"<vnetd:announce/>", true, false, false, true},
		{"<vnetd:announce guests='yes'/>", false, true, false, true},
		{"<vnetd:announce subnets='yes' guests='yes'/>", true, true, true, true},
		{"<vnetd:announce subnets='no' guests='yes'/>", false, true, false, true},
		{"<vnetd:announce guests='no'/>", true, false, false, false},
	} {
		n := parse(t, []byte(extended(routedHere+tt.inside)))
		if err := n.Validate(); err != nil {
			t.Errorf("%s: %v", tt.inside, err)
		}
		if xml := string(n.XML()); !strings.Contains(xml, tt.inside) || strings.Contains(xml, "vnetd:") != (tt.inside != "") {
			t.Errorf("%s is printed:\n%s", tt.inside, xml)
		}
		a := n.Clone().Announce
		if a.Subnets(false) != tt.subnets || a.Guests(false) != tt.guests || a.Subnets(true) != tt.allSubnets || a.Guests(true) != tt.spanned {
			t.Errorf("%s: %+v of one host has subnets %t, guests %t; of several %t, %t", tt.inside, a, a.Subnets(false), a.Guests(false), a.Subnets(true), a.Guests(true))
		}
	}
}
