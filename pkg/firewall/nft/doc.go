// Package nft writes port guards, the intent of package firewall, into nftables by
// netlink; no program is executed, and the iptables of the host may be of either
// variant.
//
// Guards are in tables of the family netdev, those of one network in one. Each guarded port
// has a chain of its own at its device's ingress, which leads to the chains of its network and
// level; what differs between ports of one level is elements of sets by ifindex, so
// that a frame costs the same whatever the number of ports. The ingress hook sees
// what the family bridge does not: frames to the reserved group addresses, which a
// bridge hands to its own STP, and from whose senders it learns, before any hook of
// that family.
//
// The table is changed by transactions: a guest is never without its guard while
// something of it changes, nor while a new process takes it over.
package nft
