// Package systemd speaks with the service manager that started this process:
// notifications and the store of file descriptors (sd_notify(3)), the files that it
// hands over (sd_listen_fds(3)), its watchdog (sd_watchdog_enabled(3)).
package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// How long the service manager may take to read what it is sent, and, at the end,
// to have done what it was told.
const managerLimit = 5 * time.Second

// Manager is the service manager. Where none runs, which Absent tells, nothing is
// told. Its methods are safe for concurrent use.
type Manager struct {
	conn *net.UnixConn // where NOTIFY_SOCKET leads; nil: nobody listens
}

// Reach connects to the service manager.
func Reach() (*Manager, error) {
	at := os.Getenv("NOTIFY_SOCKET")
	if at == "" {
		return &Manager{}, nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("reaching the service manager: %w", err)
	}
	return &Manager{conn}, nil
}

// Absent reports whether no service manager runs.
func (m *Manager) Absent() bool { return m.conn == nil }

// Close ends the connection.
func (m *Manager) Close() {
	if m.conn != nil {
		_ = m.conn.Close()
	}
}

// Tell sends a message with files: assignments such as READY=1, one on each line.
func (m *Manager) Tell(message string, files ...*os.File) error {
	if m.conn == nil {
		return nil
	}
	conn, err := m.conn.SyscallConn()
	if err != nil {
		return err
	}
	err = withDescriptors(files, nil, func(fds []int) error {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		err := m.conn.SetWriteDeadline(time.Now().Add(managerLimit))
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

// Barrier waits until the service manager has dealt with all that it was told, see
// BARRIER=1 in sd_notify(3): it closes what comes with that.
func (m *Manager) Barrier() error {
	if m.conn == nil {
		return nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	err = errors.Join(m.Tell("BARRIER=1", w), w.Close(), r.SetReadDeadline(time.Now().Add(managerLimit)))
	if err != nil {
		return err
	}
	if _, err := r.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("waiting for the service manager: %w", err)
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

// Handed returns the descriptors with which the service manager has started this
// process (sd_listen_fds(3)), under the names that it gave them. It must be called
// once, before other files are opened.
func Handed() ([]*os.File, error) {
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

// WatchdogInterval is what sd_watchdog_enabled(3) tells; 0: no watchdog.
func WatchdogInterval(getenv func(string) string, pid int) time.Duration {
	if of := getenv("WATCHDOG_PID"); of != "" && of != strconv.Itoa(pid) {
		return 0
	}
	usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 || usec > int64(24*time.Hour/time.Microsecond) {
		return 0
	}
	return time.Duration(usec) * time.Microsecond
}
