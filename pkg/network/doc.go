// Package network owns networks as live things: it defines, starts, adopts,
// repairs and stops them, says when their ports come and go, and keeps the order in
// which the kernel, the rules and the services of a network come and go. It is the
// only package that knows more than one leaf; front ends sit on its Manager.
//
// Layers, from the top: Manager, with stock (what there is at start), watcher and audit
// (what others do to it); catalog (the networks, their names and claims); Network and
// edit; turn (what is done while its turn lasts); state (what it is: one *active, nil
// while inactive, and one table of transitions). Ports are the same for ports.
//
// Locks, from the outside in. Each is taken while those before it may be held:
//
//	stock.taking       one look at what there is at a time
//	Manager.defining   define and undefine, one at a time
//	Network.op         one operation on a network at a time: who holds it has a turn
//	a port's own       held by who ends it; see package port
//	catalog.claiming   subnets of networks that are about to be active
//	ruleset.mu         what the firewall is told of one network
//	catalog.mu         the networks by name
//	state.mu           what one network is; held for moments
//	leaves' own        among them unserved.mu, stock.mu, repairQueue.mu, the broker's
//
// audit.mu is held by itself; under it networks and ports that are busy are left alone.
// No lock is held across networks; networks start in parallel.
package network
