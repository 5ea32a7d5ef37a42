// Package port has the ports of all networks: one Registry of them, found by
// whatever is asked for, with what was asked for (Spec), what it is now (Status) and
// whose it is (Kind). It makes and plugs in TAP devices, marks them, counts what each
// user has, and follows the guest behind a port by its MAC address and its leases.
// It knows networks by name only: what a port has of its network, and when, is for
// the caller to say.
//
// Locks: Port.ending is held by who ends a port or writes its record anew, and comes
// before Registry.mu, which guards all that changes and is held for moments.
package port
