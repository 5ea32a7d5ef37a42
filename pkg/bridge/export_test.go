package bridge

import (
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// SetSysctlDir has Forward persist its sysctls in a file of dir instead of
// DefaultSysctlDir. Empty: nowhere.
func (b *Bridges) SetSysctlDir(dir string) { b.sysctlDir = dir }

// AddFDB tells the bridge that the address is behind the port with that index.
func (b *Bridges) AddFDB(port int, mac net.HardwareAddr) error {
	return b.conn.addFDB(port, mac, false)
}

// DeleteFDB removes the entry that AddFDB made. No such entry, or no such port,
// is success.
func (b *Bridges) DeleteFDB(port int, mac net.HardwareAddr) error {
	err := b.conn.do(fdbRequest(unix.RTM_DELNEIGH, 0, port, mac, unix.NTF_MASTER))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("removing the forwarding entry of %v on port %d: %w", mac, port, err)
	}
	return nil
}
