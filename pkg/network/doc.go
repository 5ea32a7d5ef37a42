// Package network owns networks as live things, and is the only one, with the rooms
// below it, that knows more than one leaf; front ends sit on its Manager. It knows which
// networks there are: it finds them on disk and in the kernel, defines them, keeps them
// off each other, and sees what others do to them. One network as a live thing is package
// live's, the coming and going of ports package attach's; what both work with, and share,
// is package env's.
//
// Layers, from the top: Manager; stock (what there is at start), watcher and audit (what
// others do to it), conditions; catalog (the networks, their names and claims). Below it
// live, attach, env, and the rooms of the leaves: port, service, host, translate.
//
// Locks, from the outside in. Each is taken while those before it may be held:
//
//	stock.taking       one look at what there is at a time
//	catalog.defining   define and undefine, one at a time
//	live.Network.op    one operation on a network at a time: who holds it has a turn
//	a port's own       held by who ends it; see package port
//	catalog.claiming   subnets of networks that are about to be active
//	live ruleset.mu    what the firewall is told of one network
//	catalog.mu         the networks by name
//	live state.mu      what one network is; held for moments
//	leaves' own        among them live unserved.mu, stock.marking, drift.Keeper's, env.Broker's
//
// audit.keeping is held by itself; under it networks and ports that are busy are left
// alone. No lock is held across networks; networks start in parallel.
package network
