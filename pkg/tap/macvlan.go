package tap

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// MacvlanConfig is what an interface of the host on a parent shall be. It reaches macvtap
// devices of mode bridge on the same parent, which the parent itself does not.
type MacvlanConfig struct {
	Parent int // ifindex
	Name   string
	MAC    net.HardwareAddr
	Alias  string
}

// CreateMacvlan makes a macvlan interface in mode bridge, up where its parent is. The error
// is ErrExists for a taken name, ErrParentBusy, ErrNoMacvtap, or ErrGone where there is no
// such parent. After an error nothing is left.
func CreateMacvlan(cfg MacvlanConfig) error {
	err := newLink(cfg.Name, cfg.Parent, macvlanInfo("macvlan", macvlanModes["bridge"]), nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC))
	if err != nil {
		return fmt.Errorf("creating macvlan interface %q: %w", cfg.Name, err)
	}
	index, err := indexOf(cfg.Name)
	if err == nil {
		err = changeLink(index, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(cfg.Alias)))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("creating macvlan interface %q: %w", cfg.Name, err), deleteNamed(cfg.Name))
	}
	return nil
}

// RaiseMacvlan sets the interface with that index up. While its parent is down that is no
// error: it can't be.
func RaiseMacvlan(index int) error {
	if err := changeLink(index, unix.IFF_UP); err != nil && !errors.Is(err, unix.ENETDOWN) {
		return fmt.Errorf("setting macvlan interface %d up: %w", index, err)
	}
	return nil
}
