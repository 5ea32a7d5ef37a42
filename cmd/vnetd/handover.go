package main

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"github.com/vnetd/vnetd/internal/systemd"
	"github.com/vnetd/vnetd/pkg/libvirtrpc"
)

// handover passes sockets of services from one vnetd to the next, by way of the
// service manager's store of file descriptors (FileDescriptorStoreMax= in
// systemd.service(5)): at its end a vnetd puts them there, the next is started with
// them and takes them out. What is sent to them in between waits in them. While a
// vnetd runs the store is empty, so that a socket that it closes is closed. Its
// methods are safe for concurrent use.
type handover struct {
	log     *slog.Logger
	manager *systemd.Manager

	mu    sync.Mutex
	files map[string][]*os.File // by name, see socketName
	left  bool
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
	h, err := newHandover(left, log)
	return units, h, err
}

// newHandover takes left out of the service manager's store.
func newHandover(left []*os.File, log *slog.Logger) (*handover, error) {
	manager, err := systemd.Reach()
	if err != nil {
		return nil, err
	}
	h := &handover{log: log, manager: manager, files: make(map[string][]*os.File)}
	for _, f := range left {
		h.files[f.Name()] = append(h.files[f.Name()], f)
	}
	for name := range h.files {
		if err := manager.Tell("FDSTOREREMOVE=1\nFDNAME=" + name); err != nil {
			log.Warn("sockets of a former vnetd stay open beside ours", "name", name, "error", err)
		}
	}
	return h, nil
}

// socketName is what the service manager calls the sockets of a service: at most
// 22 characters, since all names of up to 4096 descriptors are one variable of the
// environment, which may have 128 KiB.
func socketName(bridge, service string) string { return bridge + "." + service }

// Take implements service.Sockets.
func (h *handover) Take(bridge, service string) []*os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	name := socketName(bridge, service)
	defer delete(h.files, name)
	return h.files[name]
}

// Leave implements service.Sockets.
func (h *handover) Leave(bridge, service string, sockets []*os.File) error {
	if h.manager.Absent() || len(sockets) == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = true
	// FDPOLL=0: an error that waits in a socket is no reason to close it.
	if err := h.manager.Tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+socketName(bridge, service), sockets...); err != nil {
		return fmt.Errorf("leaving sockets to the next vnetd: %w", err)
	}
	return nil
}

// discard closes what nobody has taken: it was left by networks that are no more.
func (h *handover) discard() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, files := range h.files {
		for _, f := range files {
			_ = f.Close()
		}
	}
	clear(h.files)
}

// close returns once the service manager has what was left: it does not take it
// from a process that has ended.
func (h *handover) close() {
	h.discard()
	if h.left {
		if err := h.manager.Barrier(); err != nil {
			h.log.Warn("the next vnetd may not get the sockets", "error", err)
		}
	}
	h.manager.Close()
}
