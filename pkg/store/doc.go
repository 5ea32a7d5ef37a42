// Package store owns everything that vnetd keeps on disk, and its crash
// safety: network definitions as libvirt keeps them (one XML file each, and
// autostart links), the run-state of active networks and ports, and leases.
//
//	/etc/vnetd/networks/NAME.xml            definition, survives a reboot
//	/etc/vnetd/networks/autostart/NAME.xml  symbolic link: started at boot
//	/etc/vnetd/networks/.rename.json        a rename, until all files are as it says
//	/run/vnetd/networks/UUID.json           an active network, until reboot
//	/run/vnetd/ports/UUID.json              a port, until reboot
//	/var/lib/vnetd/leases.*                 leases, see package leasedb
//
// Every write is complete before the call returns: a crash leaves the old file or the
// new one, never a part. But for what is there until reboot it is on disk as well, and
// where that fails the new file may be there although the call says so; a definition is
// put back then. Of run-state an error says that nothing was changed. What a process that
// was killed has changed without coming to make it durable is durable once the next one
// has the store open. Only one process may have a store open; a second Open fails and
// names the first.
package store
