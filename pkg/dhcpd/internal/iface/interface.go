// Package iface has what servers of one network interface need: its sockets, and
// limits to what guests can make them do.
package iface

import (
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ByName finds a link's index and MTU. Unlike net.InterfaceByName it
// does not have the kernel list all links, of which a host with many networks
// has many.
func ByName(name string) (*net.Interface, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("finding the interface: %q is no name of one: %w", name, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("finding the interface: opening a socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	// netdevice(7): SIOCGIFINDEX, SIOCGIFMTU.
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, request); err != nil {
		return nil, fmt.Errorf("finding the interface: %w", err)
	}
	index := int(request.Uint32())
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, request); err != nil {
		return nil, fmt.Errorf("finding the MTU of the interface: %w", err)
	}
	return &net.Interface{Name: name, Index: index, MTU: int(request.Uint32())}, nil
}

// Once returns a function that calls close once and does nothing after that.
func Once(close func() error) func() error {
	var done atomic.Bool
	return func() error {
		if done.Swap(true) {
			return nil
		}
		return close()
	}
}
