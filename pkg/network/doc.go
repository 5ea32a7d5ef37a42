// Package network owns networks as live things: it defines, starts, adopts,
// repairs and stops them, says when their ports come and go, and keeps the order in
// which the kernel, the rules and the services of a network come and go. It is the
// only package that knows more than one leaf; front ends sit on its Manager.
//
// Locks, from the outside in: Manager.defining (define and undefine, one at a
// time) -> Network.op (one operation on a network at a time) -> Manager.mu (the
// maps) -> Network.mu (fields that others read). The end of a port, under
// that port's own lock, takes the last two; see package port. No lock is held across
// networks; networks start in parallel.
package network
