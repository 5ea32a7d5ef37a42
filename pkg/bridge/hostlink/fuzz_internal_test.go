package hostlink

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// FuzzParse reads what the kernel says of links, addresses, routes and rules.
func FuzzParse(f *testing.F) {
	f.Add(netlink.AppendAttribute(netlink.LinkHeader(7), unix.IFLA_LINKINFO, []byte("\x09\x00\x01\x00veth\x00")))
	f.Add(netlink.AppendAttribute(make([]byte, unix.SizeofIfAddrmsg), unix.IFA_LOCAL, []byte{203, 0, 113, 1}))
	r := rule{priority: lastPriority, from: host(netip.IPv4Unspecified()), to: netip.MustParsePrefix("10.50.0.0/16"), table: 1000, icmp: errors4[0]}
	f.Add(r.message(unix.RTM_NEWRULE, 0)[unix.SizeofNlMsghdr:])
	c := Config{Table: 1000}
	f.Add(c.routeMessage(unix.RTM_NEWROUTE, 0, &route{subnet: r.to, source: r.to.Addr(), index: 7, mtu: 1450})[unix.SizeofNlMsghdr:])
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = parseDevice(body)
		_, _ = parseAddress(body)
		if r, _, ok := parseRoute(body); ok && !r.subnet.IsValid() {
			t.Errorf("a route to nowhere: %+v", r)
		}
		if r, ok := parseRule(body); ok && !r.to.IsValid() {
			t.Errorf("a rule for nowhere: %+v", r)
		}
	})
}
