package dhcpd_test

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// addrOf is the Ethernet address in a DUID as the library reads it.
func addrOf(duid []byte) (addr dhcpd.HWAddr) {
	id, err := dhcpv6.DUIDFromBytes(duid)
	if err != nil {
		return addr
	}
	switch id := id.(type) {
	case *dhcpv6.DUIDLLT:
		if id.HWType == iana.HWTypeEthernet && len(id.LinkLayerAddr) == len(addr) {
			return dhcpd.HWAddr(id.LinkLayerAddr)
		}
	case *dhcpv6.DUIDLL:
		if id.HWType == iana.HWTypeEthernet && len(id.LinkLayerAddr) == len(addr) {
			return dhcpd.HWAddr(id.LinkLayerAddr)
		}
	}
	return addr
}

// TestDUIDAddrIsTheLibrarys: the address is found where the library finds one, in DUIDs of all
// kinds, whole, cut off or longer.
func TestDUIDAddrIsTheLibrarys(t *testing.T) {
	card, found := dhcpdtest.MAC(2), 0
	for _, duid := range []dhcpv6.DUID{
		&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: card},
		&dhcpv6.DUIDLLT{HWType: iana.HWTypeEthernet, Time: 7, LinkLayerAddr: card},
		&dhcpv6.DUIDLL{HWType: iana.HWTypeInfiniband, LinkLayerAddr: card},
		&dhcpv6.DUIDLLT{HWType: iana.HWTypeInfiniband, LinkLayerAddr: card},
		&dhcpv6.DUIDEN{EnterpriseNumber: 1, EnterpriseIdentifier: card},
		&dhcpv6.DUIDUUID{UUID: [16]byte{1, 2, 3}},
	} {
		whole := append(duid.ToBytes(), 1)
		for n := range len(whole) + 1 {
			want := addrOf(whole[:n])
			if got := dhcpd.DUIDAddr(whole[:n]); got != want {
				t.Errorf("the address of %x is %v, want %v", whole[:n], got, want)
			}
			if want == dhcpd.HWAddr(card) {
				found++
			}
		}
	}
	if found != 2 {
		t.Errorf("%d DUIDs are made of the card, want 2", found)
	}
}
