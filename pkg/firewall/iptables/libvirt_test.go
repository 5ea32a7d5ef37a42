package iptables_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// libvirtTables are the tables of libvirt 11's nftables backend with two networks:
// NAT by eno1 on virbr0, and a routed one on virbr7.
const libvirtTables = `
table ip libvirt_network {
	chain forward { type filter hook forward priority filter; policy accept;
		counter jump guest_cross
		counter jump guest_input
		counter jump guest_output
	}
	chain guest_output {
		ip saddr 192.168.122.0/24 iif "virbr0" oifname "eno1" counter accept
		iif "virbr0" counter reject
		ip saddr 10.77.0.0/24 iif "virbr7" counter accept
		iif "virbr7" counter reject
	}
	chain guest_input {
		iifname "eno1" oif "virbr0" ip daddr 192.168.122.0/24 ct state established,related counter accept
		oif "virbr0" counter reject
		oif "virbr7" ip daddr 10.77.0.0/24 counter accept
		oif "virbr7" counter reject
	}
	chain guest_cross {
		iif "virbr0" oif "virbr0" counter accept
		iif "virbr7" oif "virbr7" counter accept
	}
	chain guest_nat { type nat hook postrouting priority srcnat; policy accept;
		oifname "eno1" ip saddr 192.168.122.0/24 ip daddr 224.0.0.0/24 counter return
		oifname "eno1" ip saddr 192.168.122.0/24 ip daddr 255.255.255.255 counter return
		meta l4proto tcp ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 oifname "eno1" counter masquerade to :1024-65535
		ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 oifname "eno1" counter masquerade
	}
}
table ip6 libvirt_network {
	chain guest_cross {
		iif "virbr0" oif "virbr0" counter accept
	}
	chain guest_nat { type nat hook postrouting priority srcnat; policy accept;
		ip6 saddr 2001:db8::/64 ip6 daddr ff02::/16 counter return
		ip6 saddr 2001:db8::/64 ip6 daddr != 2001:db8::/64 counter masquerade
	}
}
table ip mine {
	chain forward { type filter hook forward priority filter; policy accept;
		iif "virbr0" counter accept
	}
}
`

// What libvirt's nftables backend left for a bridge goes, in both families; what it
// has for others, and what others have for the bridge, stays.
func TestRelieve(t *testing.T) {
	onKernel(t, func(h *host) {
		nstest.IP(h.T, "link add virbr0 type bridge")
		nstest.IP(h.T, "link add virbr7 type bridge")
		f := h.firewall()
		n := firewall.Network{Bridge: "virbr0", Mode: firewall.ModeNAT, Subnets: subnets("192.168.122.1/24", "2001:db8::1/64")}
		if err := f.RemoveLeftovers(h.Context(), n); err != nil {
			h.Errorf("with no table of libvirt's: %v", err)
		}
		file := filepath.Join(h.TempDir(), "tables")
		if err := os.WriteFile(file, []byte(libvirtTables), 0o600); err != nil {
			h.Fatal(err)
		}
		nstest.Exec(h.T, "nft", "-f", file)
		for range 2 {
			if err := f.RemoveLeftovers(h.Context(), n); err != nil {
				h.Fatal(err)
			}
			for family, want := range map[string]int{"ip": 8, "ip6": 0} {
				left := nstest.Exec(h.T, "nft", "list", "table", family, "libvirt_network")
				if n := strings.Count(left, "counter"); n != want || strings.Contains(left, "virbr0") || strings.Contains(left, "192.168.122") {
					h.Errorf("%d rules are left in %s, want %d:\n%s", n, family, want, left)
				}
			}
			if mine := nstest.Exec(h.T, "nft", "list", "table", "ip", "mine"); !strings.Contains(mine, `iif "virbr0"`) {
				h.Errorf("another table lost its rule:\n%s", mine)
			}
		}
	})
}
