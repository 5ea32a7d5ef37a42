package dhcpd

import (
	"encoding/binary"
	"fmt"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/iface"
)

// HWAddrLen is the length of an Ethernet address.
const HWAddrLen = 6

// HWAddr is an Ethernet address that can be compared.
type HWAddr = iface.HWAddr

// Identity is what tells one client from another. In DHCPv6, the client identifier is
// DUID and IAID, without which nobody is a client, so that ByMAC is ByBoth. A client with a
// reservation for its hardware address is always known by that, and one without a
// client identifier is recognised by it, see Pool.Recognise.
type Identity string

// The identities of clients.
const (
	// ByBoth: the hardware address and the client identifier. Two machines that send
	// one identifier are two clients, a machine that sends two at a time is two as well.
	ByBoth Identity = "both"
	// ByClientID: the client identifier if it sends one, else the hardware address,
	// as RFC 2131 says. Two machines that send one identifier share an address.
	ByClientID Identity = "client-id"
	// ByMAC: the hardware address alone.
	ByMAC Identity = "mac"
)

// Validate returns an error unless i is one of these, or empty.
func (i Identity) Validate() error {
	switch i {
	case "", ByBoth, ByClientID, ByMAC:
		return nil
	default:
		return fmt.Errorf("identity: %q, want %s, %s or %s", i, ByBoth, ByClientID, ByMAC)
	}
}

// MaxClientID bounds the client identifier that is stored.
const MaxClientID = 255

// MaxDUID is the length of the longest DUID, with its type (RFC 8415, section
// 11.1).
const MaxDUID = 130

// ServerDUID returns the DUID of a server on a bridge with that hardware address: one
// of type DUID-LL (RFC 8415, section 11.4).
func ServerDUID(mac net.HardwareAddr) []byte {
	return (&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: mac}).ToBytes()
}

// DUIDAddr returns the Ethernet address that a DUID is made of (RFC 8415, sections
// 11.2 and 11.4), all zero when it is made of none.
func DUIDAddr(duid []byte) HWAddr {
	const header, timeSize = 4, 4 // types of the DUID and of the hardware; the time of one that has it
	if len(duid) < header || binary.BigEndian.Uint16(duid[2:]) != uint16(iana.HWTypeEthernet) {
		return HWAddr{}
	}
	addr := duid[header:]
	switch dhcpv6.DUIDType(binary.BigEndian.Uint16(duid)) {
	case dhcpv6.DUID_LL:
	case dhcpv6.DUID_LLT:
		addr = addr[min(timeSize, len(addr)):]
	default:
		return HWAddr{}
	}
	if len(addr) != HWAddrLen {
		return HWAddr{}
	}
	return HWAddr(addr)
}
