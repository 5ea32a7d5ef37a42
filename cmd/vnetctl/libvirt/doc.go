// Package libvirt takes over networks from a libvirt that ran on this host, and
// mirrors vnetd's networks in a monolithic libvirtd whose guests can't reach another
// network driver.
package libvirt
