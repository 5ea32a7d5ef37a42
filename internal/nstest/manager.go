package nstest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// serviceManager is to vnetd what systemd is: it hears notifications
// (sd_notify(3)) and keeps the file descriptors that it is given for the next
// vnetd.
type serviceManager struct {
	notify *net.UnixConn
	ready  chan struct{} // closed with READY=1
	heard  chan struct{} // closed when nothing more is heard

	mu     sync.Mutex
	store  []*os.File
	stored map[socketID]bool // what is in store
}

// socketID tells open sockets apart.
type socketID struct{ dev, ino uint64 }

// newServiceManager opens the socket of sd_notify(3).
func newServiceManager() (*serviceManager, error) {
	dir, err := os.MkdirTemp("/run", "notify")
	if err != nil {
		return nil, err
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unixgram"})
	if err != nil {
		return nil, err
	}
	m := &serviceManager{notify: notify, ready: make(chan struct{}), heard: make(chan struct{})}
	go m.listen()
	return m, nil
}

// prepare has cmd started with left, which it gets as sd_listen_fds(3) has it: a
// shell tells it its PID. They stay in the store until cmd says otherwise.
func (m *serviceManager) prepare(cmd *exec.Cmd, left []*os.File) {
	m.mu.Lock()
	m.store, m.stored = nil, make(map[socketID]bool)
	for _, f := range left {
		m.add(f)
	}
	m.mu.Unlock()
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+m.notify.LocalAddr().String())
	if len(left) == 0 {
		return
	}
	names := make([]string, len(left))
	for i, f := range left {
		names[i] = f.Name()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(left)), "LISTEN_FDNAMES="+strings.Join(names, ":"))
	cmd.ExtraFiles = left
	cmd.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}, cmd.Args...)
	cmd.Path = "/bin/sh"
}

// listen reads notifications until the socket is closed.
func (m *serviceManager) listen() {
	defer close(m.heard)
	message, control := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*253)) // SCM_MAX_FD
	serves := false
	for {
		n, oobn, _, _, err := m.notify.ReadMsgUnix(message, control)
		if err != nil {
			return
		}
		said := make(map[string]string)
		for line := range bytes.Lines(message[:n]) {
			key, value, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
			said[key] = value
		}
		m.keep(said, received(control[:oobn], said["FDNAME"]))
		if said["READY"] == "1" && !serves {
			serves = true
			close(m.ready)
		}
	}
}

// keep does what was said about file descriptors. Those that are not to be stored
// are closed, which is what BARRIER=1 waits for.
func (m *serviceManager) keep(said map[string]string, files []*os.File) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case said["FDSTORE"] == "1":
		for _, f := range files {
			m.add(f)
		}
	case said["FDSTOREREMOVE"] == "1":
		m.store = slices.DeleteFunc(m.store, func(f *os.File) bool {
			gone := f.Name() == said["FDNAME"]
			if gone {
				delete(m.stored, idOf(f))
				files = append(files, f)
			}
			return gone
		})
		closeFiles(files)
	default:
		closeFiles(files)
	}
}

// add stores f once, however often it comes (systemd.service(5)). The caller holds m.mu.
func (m *serviceManager) add(f *os.File) {
	id := idOf(f)
	if m.stored[id] {
		_ = f.Close()
		return
	}
	m.stored[id] = true
	m.store = append(m.store, f)
}

// idOf asks the kernel which socket f is. File.Fd would have it block, for vnetd as well.
func idOf(f *os.File) socketID {
	info, err := f.Stat()
	if err != nil {
		return socketID{}
	}
	is := info.Sys().(*syscall.Stat_t)
	return socketID{is.Dev, is.Ino}
}

// received are the file descriptors that came with a message.
func received(control []byte, name string) []*os.File {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return nil
	}
	var files []*os.File
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), name))
		}
	}
	return files
}

// take returns what was stored, once. The caller closes it.
func (m *serviceManager) take() []*os.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	files := m.store
	m.store, m.stored = nil, make(map[socketID]bool)
	return files
}

// names lists the names of what is stored.
func (m *serviceManager) names() (all []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.store {
		all = append(all, f.Name())
	}
	return all
}

// close ends m once it has heard all that was said; what it keeps is for take.
func (m *serviceManager) close() {
	_ = m.notify.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	<-m.heard
	_ = m.notify.Close()
}

// closeFiles closes copies of descriptors.
func closeFiles(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
