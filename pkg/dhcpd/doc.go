// Package dhcpd owns who has which address on one link. It is the part that the
// protocols have in common; packages v4 and v6 answer DHCPv4 (RFC 2131, RFC 2132) and
// DHCPv6 (RFC 8415), ra sends router advertisements (RFC 4861), tftp boot files (RFC
// 1350). Each server is opened, run and closed by itself.
//
// A Scope says which addresses may be given to whom. A Pool keeps what is known of
// each: its Lease, which a LeaseStore has on disk, or an offer, which is held in
// memory for a short time. No other source is asked which address is free. An
// Engine runs a protocol's Handler on them, and a Server is its owner's end of it.
//
// One goroutine reads messages and has the Handler decide, in memory. Whatever a
// decision changes goes to a second goroutine, which commits all that is waiting
// in one call of the store and only then sends the replies: an acknowledgement on
// the wire means a lease on disk. A commit that fails is undone in memory and
// nothing is sent; the client asks again.
//
// Messages come from guests and are not trusted. They are bounded in size, in
// the memory that they occupy and in the log lines that they cause.
package dhcpd
