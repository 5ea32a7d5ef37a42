package health

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// Served is what an active network serves, as far as conditions tell of it.
type Served struct {
	Network       string
	Bridge        string         // the bridge's name
	NotUnderstood []string       // lines of <dnsmasq:options>
	Faulty        []error        // names and records that can't be served
	Addressless   []netip.Prefix // of IPv6, in which guests find no address
	Foreign       []v4.ForeignServer
	Contested     []dhcpd.Contested
	Unused        []dhcpd.Unused // reservations
}

// foreignMemory is how long another DHCP server is taken to be there after a
// client has chosen it.
const foreignMemory = 10 * time.Minute

// Services is the source of what keeps networks from serving what they promise.
func Services(active func() []Served) Source {
	return Source{"services", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, s := range active() {
			all = slices.Concat(all, s.foreign(), s.options(), s.records(), s.prefixes(), s.contested(), s.reservations())
		}
		return all, nil
	}}
}

// warning is a condition of one network.
func (s *Served) warning(kind, message, evidence, remedy string) api.Condition {
	return api.Condition{
		Kind: kind, Severity: api.SeverityWarning, Networks: []string{s.Network},
		Message: message, Evidence: evidence, Remedy: remedy,
	}
}

// foreign are other DHCP servers on the network's bridge.
func (s *Served) foreign() (all []api.Condition) {
	for _, f := range s.Foreign {
		if time.Since(f.Seen) > foreignMemory {
			continue
		}
		all = append(all, s.warning("foreign-dhcp",
			fmt.Sprintf("another DHCP server, %v, gives guests on %s addresses", f.Addr, s.Bridge),
			fmt.Sprintf("a DHCPREQUEST on %s names the server %v", s.Bridge, f.Addr),
			fmt.Sprintf("ip neigh show to %v dev %s", f.Addr, s.Bridge)))
	}
	return all
}

// options are lines of <dnsmasq:options> that nobody understands.
func (s *Served) options() []api.Condition {
	if len(s.NotUnderstood) == 0 {
		return nil
	}
	return []api.Condition{s.warning("dnsmasq-options",
		fmt.Sprintf("lines of <dnsmasq:options> of network %q are not understood and have no effect", s.Network),
		strings.Join(s.NotUnderstood, "; "), "vnetctl edit "+s.Network)}
}

// records are names and records that can't be served, each by itself: an earlier
// version took them.
func (s *Served) records() (all []api.Condition) {
	for _, f := range s.Faulty {
		all = append(all, s.warning("faulty-record",
			fmt.Sprintf("a name or record of network %q can't be served, and is left out", s.Network),
			f.Error(), "vnetctl edit "+s.Network))
	}
	return all
}

// prefixes are those of which guests can make no addresses, and for which there is no
// DHCPv6.
func (s *Served) prefixes() (all []api.Condition) {
	for _, p := range s.Addressless {
		all = append(all, s.warning("prefix-unusable",
			fmt.Sprintf("guests find no address in %v: they make one by themselves of prefixes of 64 bits only", p),
			fmt.Sprintf("network %q has %v without <dhcp>", s.Network, p), "vnetctl edit "+s.Network))
	}
	return all
}

// reservations are those without effect.
func (s *Served) reservations() (all []api.Condition) {
	for _, r := range s.Unused {
		all = append(all, s.warning("reservation-unusable",
			fmt.Sprintf("the reservation of %v for %s has no effect", r.Addr, r.For), r.Why, "vnetctl edit "+s.Network))
	}
	return all
}

// contested are addresses that the network gives to somebody, or has for itself,
// while another client's lease of them runs.
func (s *Served) contested() (all []api.Condition) {
	for _, c := range s.Contested {
		whose := fmt.Sprintf("is reserved for %s, which gets it", c.For)
		if c.For == "" {
			whose = "is the network's own, and its guest moves"
		}
		client, until := c.Lease.MAC.String(), "for ever"
		if client == "" {
			client = fmt.Sprintf("DUID %x", c.Lease.DUID)
		}
		if !c.Lease.Expiry.IsZero() {
			until = "until " + c.Lease.Expiry.UTC().Format(time.RFC3339)
		}
		all = append(all, s.warning("address-leased",
			fmt.Sprintf("%v %s when the lease of another guest ends", c.Lease.Addr, whose),
			fmt.Sprintf("%v is leased to %s %s", c.Lease.Addr, client, until), "vnetctl leases "+s.Network))
	}
	return all
}
