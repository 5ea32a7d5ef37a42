// Package upstream asks other name servers.
//
// A Selector (selector.go) has the servers that a name is asked of: those of the
// configuration (routes.go), or those of the host's resolv.conf (resolvconf.go).
// A Client asks them (exchange.go) from sockets that are kept for a moment and that one
// goroutine reads from (sockets.go, package arrival), over TCP where an answer is cut (tcp.go), and remembers of
// each Server how it does (server.go, memory.go). Of queries with the same question one
// is asked for all (inflight.go).
//
// Most questions are answered by the first server that is asked, at once and well. They
// have no goroutine, no timer and no context of their own: who reads the client's query
// asks, together with what else was read (outbox.go), the question waits in a list
// (patience.go), and who reads the server's answer goes on to the client with it. Only what
// takes longer, or fails, has a goroutine, which goes on from there (exchange.go).
//
// An answer is believed when it comes from the server's address to the socket's
// random port and repeats the random id and the random case of the question (RFC
// 5452 section 9; draft-vixie-dnsext-dns0x20).
package upstream
