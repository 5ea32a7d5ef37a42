// Package service has what one active network serves: DHCP for either family,
// router advertisements, names, files over TFTP, and the registration of its names
// with the host's resolver. A Set opens each of them, supervises it, opens it anew
// with back-off when it fails, so that none takes another down, changes it in
// place, and hands its sockets over to the next vnetd. It also tells the services
// of each other's doings: names of leases go to DNS, addresses and names of guests
// on ports to DHCP and DNS.
//
// Locks: Set.mu orders what DNS is told. A Set calls its Owner without a lock but
// where Owner says otherwise.
package service
