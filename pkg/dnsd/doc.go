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
//	wire             one is checked and becomes a query (RFC 1035, RFC 6891)
//	zone             the zone answers it, or it is not ours (server.go)
//	cache.go         an answer is there from before
//	forward.go       it waits for the query in flight: one per distinct question
//	upstream         the servers for its name are asked
//	wire             the answer is fitted to each client that waits for it
//
// Local answers and cached ones are packed in the read loop, without an
// allocation; forwarding never blocks it, and takes no goroutine where the first server
// answers at once. The number of queries that wait for an
// upstream server and the number of TCP clients are bounded, no client can take
// more than a share of either, and there is room for another however many there
// are (slots.go). Package resolved tells the host's own resolver what to ask a
// network for.
//
// Logs are limited by internal/ratelog. There is no other rate limit: clients
// share slots, which bound what is kept for them, not how often they ask.
package dnsd
