package tap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A macvtap device does not go with its last descriptor, as a TAP device does, and the kernel
// says nowhere whether one is open. So each descriptor has a lock on the device node
// (F_OFD_SETLK): it belongs to the open file, not to a process, and goes with the last copy
// of it, wherever that is. /proc/locks has it, also for a process that did not take it.

// hold takes the lock of a descriptor, one that others may have as well.
func hold(fd int) error {
	if err := unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK}); err != nil {
		return fmt.Errorf("locking the device: %w", err)
	}
	return nil
}

// lockOf is what /proc/locks calls the file that a descriptor has a lock on. It need not be
// what stat(2) says of it, as on overlayfs.
func lockOf(fd int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "lock:"); ok {
			if file := lockedFile(rest); file != "" {
				return file, nil
			}
		}
	}
	return "", errors.New("/proc/self/fdinfo does not have the lock of a device")
}

// lockedFile is the file of a line of proc_locks(5), N: OFDLCK ADVISORY READ -1 00:06:118 0 EOF;
// empty for locks of another kind.
func lockedFile(line string) string {
	f := strings.Fields(line)
	if len(f) != 8 || f[1] != "OFDLCK" {
		return ""
	}
	return f[5]
}

// Held reports whether somebody has a macvtap device open, by its Lock.
func Held(lock string) (bool, error) {
	if lock == "" {
		return false, nil
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, fmt.Errorf("looking who has a device open: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if lockedFile(line) == lock {
			return true, nil
		}
	}
	return false, nil
}

// Closings tells when descriptors of macvtap devices are closed. Its methods may be called
// concurrently.
type Closings struct {
	mu      sync.Mutex // guards what follows
	inotify *os.File   // nil: nobody watches
	nodes   map[int32]string
}

// Add has Watch tell of the device with that node. It does nothing while nobody watches.
func (c *Closings) Add(node string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inotify == nil || node == "" {
		return nil
	}
	raw, err := c.inotify.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var wd int
		if wd, failed = unix.InotifyAddWatch(int(fd), node, unix.IN_CLOSE_WRITE|unix.IN_CLOSE_NOWRITE); failed == nil {
			c.nodes[int32(wd)] = node
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return fmt.Errorf("watching %s: %w", node, err)
	}
	return nil
}

// Watch calls f with the node of each device of which a descriptor was closed, with "" where
// some may have been missed, until ctx ends. ready is called first, once Add is heard.
func (c *Closings) Watch(ctx context.Context, ready func(), f func(node string)) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watching devices: %w", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	c.mu.Lock()
	c.inotify, c.nodes = file, make(map[int32]string)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.inotify = nil
		_ = file.Close()
	}()
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ready()
	buf := make([]byte, 64*(unix.SizeofInotifyEvent+unix.NAME_MAX+1))
	for {
		n, err := file.Read(buf)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("watching devices: %w", err)
		}
		c.tell(buf[:n], f)
	}
}

// tell calls f for each event of inotify(7).
func (c *Closings) tell(events []byte, f func(node string)) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(events)), binary.NativeEndian.Uint32(events[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(events[12:]))
		events = events[min(size, len(events)):]
		c.mu.Lock()
		node, known := c.nodes[wd]
		if mask&unix.IN_IGNORED != 0 {
			delete(c.nodes, wd)
		}
		c.mu.Unlock()
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			f("")
		case known && mask&(unix.IN_CLOSE_WRITE|unix.IN_CLOSE_NOWRITE) != 0:
			f(node)
		}
	}
}
