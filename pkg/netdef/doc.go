// Package netdef is libvirt's network schema: it parses a <network>, fills in
// what libvirt fills in, checks it, finds conflicts with other networks, changes
// sections of it and prints it as virsh net-dumpxml does. It does the same for
// the <networkport> of a guest, which has no conflicts and sections.
//
// The package is pure: it touches no file, no kernel and no clock. The way of a
// definition is Parse, Validate, Conflicts, Complete. Parse reports every value
// that can't be read, Validate every value that can't work; both as Faults, so
// that a user can mend a file in one go.
//
// What libvirt accepts is accepted and what it prints is printed, with the
// exceptions that docs/networks.md lists. The schema is described at
// https://libvirt.org/formatnetwork.html.
package netdef
