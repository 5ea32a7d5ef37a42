package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

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

// Leases returns the leases of the network in vnetd's order.
func (n Network) Leases(ctx context.Context) ([]api.Lease, error) {
	var wire []wireLease
	if err := n.call(ctx, "GetLeases").into(&wire); err != nil {
		return nil, err
	}
	leases := make([]api.Lease, 0, len(wire))
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
func newLease(w wireLease) (api.Lease, error) {
	lease := api.Lease{
		MAC: w.MAC, Prefix: int(w.Prefix), Hostname: w.Hostname, ClientID: w.ClientID, Interface: w.Interface, IAID: w.IAID,
	}
	var err error
	if lease.Address, err = netip.ParseAddr(w.Address); err != nil {
		return lease, err
	}
	if !netip.PrefixFrom(lease.Address, lease.Prefix).IsValid() {
		return lease, fmt.Errorf("prefix length %d of %s", w.Prefix, lease.Address)
	}
	if w.Expiry != 0 {
		expiry := time.Unix(w.Expiry, 0)
		lease.Expiry = &expiry
	}
	return lease, checkMAC(w.MAC)
}

// checkMAC returns an error for what is neither a MAC address nor empty.
func checkMAC(s string) error {
	if s == "" {
		return nil
	}
	_, err := net.ParseMAC(s)
	return err
}

// ExportLeases returns the leases of the network as dnsmasq keeps them in a file.
func (n Network) ExportLeases(ctx context.Context) (string, error) {
	var text string
	err := n.call(ctx, "ExportLeases").into(&text)
	return text, err
}

// ImportLeases gives the network the leases in text, a lease file of dnsmasq
// or the file BRIDGE.status that libvirt keeps. It returns how many there are now, and
// for each of the others its address and why not. api.Invalid if text is no such file.
func (n Network) ImportLeases(ctx context.Context, text string) (imported int, refused []string, err error) {
	var count uint32
	err = n.call(ctx, "ImportLeases", text).into(&count, &refused)
	return int(count), refused, err
}
