package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

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
	manager *net.UnixConn // where NOTIFY_SOCKET leads; nil: nobody keeps anything

	mu    sync.Mutex
	files map[string][]*os.File // by name, see socketName
	left  bool
}

// How long the service manager may take to read what it is sent, and, at the end,
// to have done what it was told.
const managerLimit = 5 * time.Second

// inherit takes over what the service manager has handed to this process: the
// sockets of socket units, by path, and those that a former vnetd has left. It
// must be called once, and before any program is run.
func inherit(log *slog.Logger) (map[string]*net.UnixListener, *handover, error) {
	handed, err := handedFiles()
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
	h := &handover{log: log, files: make(map[string][]*os.File)}
	for _, f := range left {
		h.files[f.Name()] = append(h.files[f.Name()], f)
	}
	at := os.Getenv("NOTIFY_SOCKET")
	if at == "" {
		return h, nil
	}
	var err error
	if h.manager, err = net.DialUnix("unixgram", nil, &net.UnixAddr{Name: at, Net: "unixgram"}); err != nil {
		return nil, fmt.Errorf("reaching the service manager: %w", err)
	}
	for name := range h.files {
		if err := h.tell("FDSTOREREMOVE=1\nFDNAME="+name, nil); err != nil {
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
	if h.manager == nil || len(sockets) == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.left = true
	// FDPOLL=0: an error that waits in a socket is no reason to close it.
	if err := h.tell("FDSTORE=1\nFDPOLL=0\nFDNAME="+socketName(bridge, service), sockets); err != nil {
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
	if h.manager == nil {
		return
	}
	if h.left {
		if err := h.barrier(); err != nil {
			h.log.Warn("the next vnetd may not get the sockets", "error", err)
		}
	}
	_ = h.manager.Close()
}

// barrier waits until the service manager has dealt with all that it was told, see
// BARRIER=1 in sd_notify(3): it closes what comes with that.
func (h *handover) barrier() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	err = errors.Join(h.tell("BARRIER=1", []*os.File{w}), w.Close(), r.SetReadDeadline(time.Now().Add(managerLimit)))
	if err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for the service manager: %w", err)
	}
	return nil
}

// tell sends the service manager a message with files.
func (h *handover) tell(message string, files []*os.File) error {
	conn, err := h.manager.SyscallConn()
	if err != nil {
		return err
	}
	err = withDescriptors(files, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		err := h.manager.SetWriteDeadline(time.Now().Add(managerLimit))
		var sent error // package net sends no rights on a connected socket of datagrams
		return errors.Join(err, conn.Write(func(fd uintptr) bool {
			sent = unix.Sendmsg(int(fd), []byte(message), rights, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
			return !errors.Is(sent, unix.EAGAIN)
		}), sent)
	})
	if err != nil {
		return fmt.Errorf("telling the service manager %q: %w", message, err)
	}
	return nil
}

// withDescriptors calls f with the descriptors of files, which stay open and as
// they are meanwhile. Those that are collected already go before them.
func withDescriptors(files []*os.File, collected []int, f func(fds []int) error) error {
	if len(files) == 0 {
		return f(collected)
	}
	conn, err := files[0].SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) { inner = withDescriptors(files[1:], append(collected, int(fd)), f) })
	return errors.Join(err, inner)
}

// handedFiles are the descriptors with which the service manager has started this
// process (sd_listen_fds(3)), under the names that it gave them. It must be called
// once, before other files are opened.
func handedFiles() ([]*os.File, error) {
	const first = 3 // SD_LISTEN_FDS_START
	if pid, err := strconv.Atoi(os.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return nil, nil
	}
	count, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || count < 0 {
		return nil, fmt.Errorf("LISTEN_FDS: %q is not a number of file descriptors", os.Getenv("LISTEN_FDS"))
	}
	names := strings.Split(os.Getenv("LISTEN_FDNAMES"), ":")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	var files []*os.File
	for i := range count {
		name := "unknown"
		if len(names) == count {
			name = names[i]
		}
		unix.CloseOnExec(first + i)
		files = append(files, os.NewFile(uintptr(first+i), name))
	}
	return files, nil
}
