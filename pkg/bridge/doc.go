// Package bridge owns the bridge devices of the daemon's network namespace and
// what is plugged into them: attributes, MAC address, MTU, addresses, routes, IPv6
// sysctls, the ports and their forwarding entries, and the host's forwarding.
//
// Bridges.Ensure brings a device to what its Config asks and is silent when
// nothing differs. Bridges.Attach plugs a port in so that it forwards at once,
// with spanning tree left on. Bridges.Watch tells about links that came, changed or
// went. Package uplink moves the link that leads to the LAN onto a bridge, and back.
//
// Everything goes over rtnetlink, but for the switches of IPv6 and of forwarding,
// which are sysctls.
// The package keeps no copy of kernel state but the networks that the host is in,
// for as long as the kernel tells of no change (Bridges.AddressOwner, HostNets).
package bridge
