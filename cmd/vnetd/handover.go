package main

import (
	"log/slog"
	"net"
	"os"

	"github.com/vnetd/vnetd/internal/systemd"
	"github.com/vnetd/vnetd/pkg/libvirtrpc"
	"github.com/vnetd/vnetd/pkg/network/service"
)

// handover has the sockets of services outlive this process, in the service manager's
// store of file descriptors: there they are from the moment they are bound, and the
// next vnetd is started with them, also after a crash. What is sent to them in between
// waits in them.
type handover struct {
	manager *systemd.Manager
	store   *systemd.Store
}

// inherit takes over what the service manager has handed to this process: the
// sockets of socket units, by path, and those that a former vnetd has left. It
// must be called once, and before any program is run.
func inherit(log *slog.Logger) (map[string]*net.UnixListener, *handover, error) {
	handed, err := systemd.Handed()
	if err != nil {
		return nil, nil, err
	}
	units, left, err := libvirtrpc.Inherited(handed)
	if err != nil {
		return nil, nil, err
	}
	manager, err := systemd.Reach()
	if err != nil {
		return nil, nil, err
	}
	return units, &handover{manager, systemd.NewStore(manager, left, log)}, nil
}

// socketName is what the service manager calls the sockets of a service. It is short, at
// most 22 characters, since all names together have little room, see systemd.Store. What
// else is to be known of a socket (address, port, which device of that name) the kernel
// tells, who can't be out of date, see package handover.
func socketName(bridge, name string) string {
	if name == service.RA {
		name = "ra"
	}
	return bridge + "." + name
}

// Take implements service.Sockets.
func (h *handover) Take(bridge, name string) []*os.File {
	return h.store.Take(socketName(bridge, name))
}

// Keep implements service.Sockets.
func (h *handover) Keep(bridge, name string, sockets []*os.File) (drop func()) {
	return h.store.Keep(socketName(bridge, name), sockets)
}

// close returns once the service manager has what the next vnetd is to get.
func (h *handover) close() {
	h.store.Close()
	h.manager.Close()
}
