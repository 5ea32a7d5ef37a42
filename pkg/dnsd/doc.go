// Package dnsd says which name is which address on one link, and forwards the
// rest to the host's resolvers.
//
// One Server serves one network. Its sockets are bound to the bridge and to the
// gateway's addresses, so nobody else's queries reach it. What it knows comes
// from two sides: static names and records (Config) and dynamic ones (SetHost,
// one per lease). It is authoritative for those names, and for the reverse names
// of the network's subnets; every other question goes to the network's
// forwarders or to the servers that the host's resolv.conf names, or is refused
// on a network that must not forward.
//
// A query takes one way through the package:
//
//	udp.go, tcp.go   messages are read, of UDP many at once (batch.go)
//	message.go       one is checked and becomes a query (RFC 1035, RFC 6891)
//	lookup.go        the zone (zone.go, view.go) answers it, or it is not ours
//	cache.go         an answer is there from before
//	forward.go       it joins a flight: one exchange per distinct question
//	route.go         the upstream servers that its name is asked of
//	exchange.go      the flight asks them
//	response.go      the answer is fitted to each client that waits for it
//
// Local answers (reply.go) and kept ones are packed in the read loop, without an
// allocation; forwarding never blocks it. The number of queries that wait for an
// upstream and the number of TCP clients are bounded, no client can take more than
// a share of either, and there is room for another however many there are
// (limiter.go). What became of all of them is counted (stats.go).
//
// Resolved (resolved.go) tells the host's own resolver what to ask a network for.
package dnsd
