package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Lease is one address that a network's DHCP server gave to a guest.
type Lease struct {
	// Interface is the bridge on which the lease was given.
	Interface string
	// Expiry is when the lease ends, to the second; zero means never.
	Expiry time.Time
	// MAC is nil if the server does not know it, as with some DHCPv6 clients.
	MAC net.HardwareAddr
	// IAID is the identity association of a DHCPv6 lease (RFC 8415, 4.2), a
	// number in text; empty with DHCPv4.
	IAID string
	// Address is the leased address with the length of the network's prefix.
	Address netip.Prefix
	// Hostname is empty if the guest gave none. It is the guest's word.
	Hostname string
	// ClientID is the DHCPv4 client identifier or the DHCPv6 DUID, as pairs of
	// hex digits with colons; empty if the guest sent none.
	ClientID string
}

// wireLease has the fields of GetLeases' a(sxisssuss) in their order.
type wireLease struct {
	Interface string
	Expiry    int64
	Type      int32
	MAC       string
	IAID      string
	Address   string
	Prefix    uint32
	Hostname  string
	ClientID  string
}

// Leases returns the leases of a network in vnetd's order.
func (c *Client) Leases(ctx context.Context, name string) ([]Lease, error) {
	var wire []wireLease
	if err := c.callNetwork(ctx, name, "GetLeases").into(&wire); err != nil {
		return nil, err
	}
	leases := make([]Lease, 0, len(wire))
	for _, w := range wire {
		lease, err := newLease(w)
		if err != nil {
			return nil, badReply("GetLeases", err)
		}
		leases = append(leases, lease)
	}
	return leases, nil
}

// newLease checks and converts one lease.
func newLease(w wireLease) (Lease, error) {
	lease := Lease{Interface: w.Interface, IAID: w.IAID, Hostname: w.Hostname, ClientID: w.ClientID}
	addr, err := netip.ParseAddr(w.Address)
	if err != nil {
		return Lease{}, err
	}
	if lease.Address = netip.PrefixFrom(addr, int(w.Prefix)); !lease.Address.IsValid() {
		return Lease{}, fmt.Errorf("prefix length %d of %s", w.Prefix, addr)
	}
	if lease.MAC, err = parseMAC(w.MAC); err != nil {
		return Lease{}, err
	}
	if w.Expiry != 0 {
		lease.Expiry = time.Unix(w.Expiry, 0)
	}
	return lease, nil
}

// parseMAC is net.ParseMAC with nil for the empty text.
func parseMAC(s string) (net.HardwareAddr, error) {
	if s == "" {
		return nil, nil
	}
	return net.ParseMAC(s)
}

// ExportLeases returns the leases of a network as dnsmasq keeps them in a file.
func (c *Client) ExportLeases(ctx context.Context, name string) (string, error) {
	var text string
	err := c.callNetwork(ctx, name, "ExportLeases").into(&text)
	return text, err
}

// ImportLeases gives a network the leases in text, a lease file of dnsmasq
// or the file BRIDGE.status that libvirt keeps. It returns how many there are now, and
// for each of the others its address and why not. ErrInvalid if text is no such file.
func (c *Client) ImportLeases(ctx context.Context, name, text string) (imported int, refused []string, err error) {
	var n uint32
	err = c.callNetwork(ctx, name, "ImportLeases", text).into(&n, &refused)
	return int(n), refused, err
}
