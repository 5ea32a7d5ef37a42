package e2e

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/guardtest"
)

// TestGuardsBesideLegacyIPTables guards ports on a host whose iptables are the legacy
// variant, for the network's rules.
func TestGuardsBesideLegacyIPTables(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		if err := unix.Mount("/usr/sbin/xtables-legacy-multi", "/usr/sbin/xtables-nft-multi", "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		s := newStreet(t)
		s.define(gatewayLevel, "")
		vnetctl(t, s.Lab, "start", "gateway")
		if rules := nstest.Exec(t, "iptables-legacy-save", "-t", "filter"); !strings.Contains(rules, "-A LIBVIRT_FWO -s 198.18.1.0/24") {
			t.Fatalf("iptables-legacy has no rules of the network:\n%s", rules)
		}
		mac := firewall.MAC{0x52, 0x54, 0, 1, 1, 0xc9}
		ns, port := s.own("gateway", "evil", mac.String())
		ns.IP("addr add 198.18.1.201/24 dev eth0")
		ns.IP("route add default via 198.18.1.1")
		nstest.Eventually(t, limit, "the guest reaches the LAN", func() error { return ns.Command(t.Context(), "ping", "-c1", "-W1", nstest.LANHost).Run() })
		g := &sender{NS: ns, port: port, Card: guardtest.Card{MAC: mac}, fd: packetSocket(t, ns)}
		segment := guardtest.Segment{Guest: g.Card, Other: guardtest.Card{V4: netip.MustParseAddr("198.18.1.202")}}
		if _, err := unix.Write(g.fd, segment.ARP(2, mac, netip.MustParseAddr("198.18.1.1"))); err != nil {
			t.Fatal(err)
		}
		time.Sleep(countersAge)
		if got := s.stopped(g); len(got) != 1 || got["arp"] != 1 {
			t.Errorf("of a guest that poses as its gateway %v was stopped, want one frame of ARP", got)
		}
	})
}
