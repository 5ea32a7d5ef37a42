// Package upstream asks other name servers.
//
// A Selector (selector.go) has the servers that a name is asked of: those of the
// configuration (routes.go), or those of the host's resolv.conf (resolvconf.go).
// A Client asks them (exchange.go) from sockets that are kept for a moment
// (sockets.go), over TCP where an answer is cut (tcp.go), and remembers of each
// Server how it does (server.go, memory.go). Of queries with the same question one
// is asked for all (inflight.go).
//
// An answer is believed when it comes from the server's address to the socket's
// random port and repeats the random id and the random case of the question (RFC
// 5452 section 9; draft-vixie-dnsext-dns0x20).
package upstream
