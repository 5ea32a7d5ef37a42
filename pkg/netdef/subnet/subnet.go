// Package subnet chooses subnets for networks whose documents leave it to vnetd. It is
// pure: what is taken, its caller knows.
package subnet

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"slices"
)

// Bits4 and Bits6 are the lengths of prefixes where nothing else is asked for.
const (
	Bits4 = 24
	Bits6 = 64
)

// span is a run of subnets of IPv4 that may be chosen.
type span struct{ first, last netip.Prefix }

// spans lists what may be chosen, in this order: the private addresses of RFC 1918 that
// routers at home and in offices do not begin with.
func spans() []span {
	return []span{
		{netip.MustParsePrefix("192.168.100.0/24"), netip.MustParsePrefix("192.168.254.0/24")},
		{netip.MustParsePrefix("10.100.0.0/24"), netip.MustParsePrefix("10.254.255.0/24")},
	}
}

// pool is a range of addresses that a program takes by itself once it is there.
type pool struct {
	prefix netip.Prefix
	owner  string // for who reads this
}

// pools lists the ranges that are never chosen, although the host may have no route to
// them yet.
func pools() []pool {
	return []pool{
		{netip.MustParsePrefix("192.168.122.0/24"), "libvirt's network default"},
		{netip.MustParsePrefix("172.16.0.0/12"), "Docker"},
		{netip.MustParsePrefix("10.42.0.0/16"), "pods of k3s and RKE2"},
		{netip.MustParsePrefix("10.43.0.0/16"), "services of k3s and RKE2"},
		{netip.MustParsePrefix("10.88.0.0/16"), "Podman"},
		{netip.MustParsePrefix("10.96.0.0/12"), "services of kubeadm"},
		{netip.MustParsePrefix("10.152.183.0/24"), "services of MicroK8s"},
		{netip.MustParsePrefix("10.244.0.0/16"), "pods of flannel"},
		{netip.MustParsePrefix("100.64.0.0/10"), "Tailscale, and carriers' NAT (RFC 6598)"},
	}
}

// Choose4 returns the first private IPv4 subnet with a prefix of that many bits that is not
// taken. A smaller one than of Bits4 begins where one of those would. The error says where it
// looked.
func Choose4(bits int, taken func(netip.Prefix) bool) (netip.Prefix, error) {
	kept := pools()
	size, step := uint64(1)<<(32-bits), uint64(1)<<(32-min(bits, Bits4))
	for _, s := range spans() {
		first, end := number(s.first), number(s.last)+1<<(32-Bits4)
		for at := (first + step - 1) / step * step; at+size <= end; at += step {
			if p := netip.PrefixFrom(address(at), bits); !pooled(kept, p) && !taken(p) {
				return p, nil
			}
		}
	}
	return netip.Prefix{}, fmt.Errorf("no IPv4 subnet of /%d is free from 192.168.100.0/24 to 192.168.254.0/24 and from 10.100.0.0/24 to 10.254.255.0/24", bits)
}

// number is the first address of an IPv4 subnet as a number.
func number(p netip.Prefix) uint64 { return uint64(binary.BigEndian.Uint32(p.Addr().AsSlice())) }

// address is the IPv4 address of a number.
func address(n uint64) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(n))))
}

// pooled reports whether p is some program's by default.
func pooled(kept []pool, p netip.Prefix) bool {
	return slices.ContainsFunc(kept, func(k pool) bool { return k.prefix.Overlaps(p) })
}

// tries is how many prefixes Choose6 makes up: two random ones of 40 bits meet so
// seldom that something else is wrong where that many are taken.
const tries = 16

// Choose6 makes up a unique local prefix (RFC 4193 section 3.1: fd00::/8 and 40 random
// bits, the global ID) of that many bits that is not taken, with the subnet ID 0. The errors are those of
// random, and that every prefix was taken. Of a prefix shorter than 48 bits fewer are random.
func Choose6(random io.Reader, bits int, taken func(netip.Prefix) bool) (netip.Prefix, error) {
	for range tries {
		a := [16]byte{0: 0xfd}
		if _, err := io.ReadFull(random, a[1:6]); err != nil {
			return netip.Prefix{}, fmt.Errorf("making a global ID for IPv6: %w", err)
		}
		if p := netip.PrefixFrom(netip.AddrFrom16(a), bits).Masked(); !taken(p) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no IPv6 subnet of fd00::/8 is free: the host has routes to all of %d that were made up", tries)
}
