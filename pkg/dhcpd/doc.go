// Package dhcpd owns who has which address on one link.
//
// A Server answers DHCPv4 (RFC 2131, RFC 2132) on one bridge, a Server6 DHCPv6 (RFC
// 8415). Their state is the set of leases, which a LeaseStore keeps on disk, and
// the offers that they hold in memory for a short time; they ask no other source
// which address is free. An RAServer sends router advertisements (RFC 4861), a
// TFTPServer boot files (RFC 1350). Each is opened, run and closed by itself.
//
// In a DHCP server one goroutine reads messages and decides, in memory. Whatever a
// decision changes goes to a second goroutine, which commits all that is waiting
// in one call of the store and only then sends the replies: an acknowledgement on
// the wire means a lease on disk. A commit that fails is undone in memory and
// nothing is sent; the client asks again.
//
// Messages come from guests and are not trusted. They are bounded in size, in
// the memory that they occupy and in the log lines that they cause.
package dhcpd
