// Package client is the typed Go client of vnetd's D-Bus API.
//
// It is made for launchers of virtual machines and for vnetd's own commands.
// A launcher dials, asks for a port, and hands the port's files to QEMU:
//
//	c, err := client.Dial(ctx)
//	port, err := c.RequestPort(ctx, "default", client.PortOptions{Name: "web1"})
//	// port.Files[0] is a TAP descriptor that is already plugged into the
//	// network; the port goes when its last copy is closed.
//
// The example has all of it, down to the address of the guest. Networks and ports
// that exist are reached by handles:
//
//	err := c.Network("default").Start(ctx)
//	leases, err := c.Network("default").Leases(ctx)
//	err := c.Port(uuid).Release(ctx)
//
// What they answer are the documents of package api.
//
// Every failure that vnetd reports is an *Error and matches one of the
// kinds of package api with errors.Is. No type of the D-Bus library leaves this package.
package client
