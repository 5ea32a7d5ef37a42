// Package dnsd says which name is which address on one link, and forwards the
// rest to the host's resolvers.
//
// One Server serves one network. Its sockets are bound to the bridge and to the
// gateway's addresses, so nobody else's queries reach it. What it knows comes
// from two sides: static hosts (Config.Static) and dynamic ones (SetHost, one
// per lease). It is authoritative for those names, and for the reverse names of
// the network's subnets; every other question goes to the servers that the
// host's resolv.conf names, or is refused on a network that must not forward.
//
// A query takes one way through the package:
//
//	udp.go, tcp.go   a message is read
//	message.go       it is checked and becomes a query (RFC 1035, RFC 6891)
//	lookup.go        the zone (zone.go) answers it, or it is not ours
//	forward.go       it joins a flight: one exchange per distinct question
//	exchange.go      the flight asks the upstream servers
//	wire.go          the answer is fitted to each client that waits for it
//
// Local answers are packed in the read loop; forwarding never blocks it. The
// number of queries that wait for an upstream and the number of TCP clients are
// bounded, and no client can take more than a share of either (limiter.go).
package dnsd
