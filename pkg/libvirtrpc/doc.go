// Package libvirtrpc answers libvirt's remote protocol for the network driver:
// on the sockets where an unmodified virsh, virt-manager or virtqemud looks for
// virtnetworkd, it is virtnetworkd.
//
// The layers, from the wire up: xdr.go is RFC 4506 with limits, frame.go cuts the
// stream into messages, client.go is one connection with its queue, calls in
// flight and keepalive, server.go the sockets and how many clients they take.
// procs.go is the table of what can be called; the files beside it have a
// function for each row. They ask a Backend, which *network.Manager is by way of
// NewBackend, and errors.go turns its errors into libvirt's.
//
// Locks: Server.mu and client.mu are held for moments and never together with a
// call to the Backend.
package libvirtrpc
