package libvirt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// dnsmasqLimit is how long a dnsmasq may take to end before it is killed.
const dnsmasqLimit = 10 * time.Second

// orphan is a dnsmasq that libvirt started and left behind: its processes are the
// server and, since it runs libvirt's helper for leases, one more that is root's. The
// methods of a nil *orphan find nothing to do.
type orphan struct {
	pid int   // the server's
	fds []int // one that stands for each process
}

// orphan finds the dnsmasq of a network of libvirt's; nil when none runs. The PID in
// libvirt's file may be another program's by now: it counts if that is a dnsmasq, of
// this host's network namespace, with libvirt's configuration of this network.
func (f files) orphan(name string) (*orphan, error) {
	text, err := os.ReadFile(f.path(filepath.Join(RunDir, name+".pid")))
	if err != nil {
		return nil, readable(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return nil, nil
	}
	o := &orphan{pid: pid}
	if err := o.add(pid, name); err != nil || len(o.fds) == 0 {
		return nil, err
	}
	for _, child := range children(pid) {
		if err := o.add(child, name); err != nil {
			o.close()
			return nil, err
		}
	}
	return o, nil
}

// add takes hold of a process, if it is one of the network's dnsmasq.
func (o *orphan) add(pid int, name string) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("taking hold of process %d: %w", pid, err)
	}
	// Looked at while it is held: its PID can't become another's meanwhile unseen,
	// as the signal goes to the process that was opened.
	if !servesNetwork(pid, name) {
		return unix.Close(fd)
	}
	o.fds = append(o.fds, fd)
	return nil
}

// servesNetwork reports whether a process is the dnsmasq of that network of libvirt's.
func servesNetwork(pid int, name string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	comm, err := os.ReadFile(filepath.Join(proc, "comm"))
	if err != nil || strings.TrimSpace(string(comm)) != "dnsmasq" {
		return false
	}
	cmdline, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil || !slices.Contains(strings.Split(string(cmdline), "\x00"), "--conf-file="+filepath.Join(DnsmasqDir, name+".conf")) {
		return false
	}
	theirs, err := os.Readlink(filepath.Join(proc, "ns/net"))
	ours, ourErr := os.Readlink("/proc/self/ns/net")
	return err == nil && ourErr == nil && theirs == ours
}

// children lists the processes that a process has started.
func children(pid int) []int {
	var found []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, err := os.ReadFile(stat)
		if err != nil {
			continue // it has ended
		}
		// proc(5): the name, which may hold anything, ends with the last ")"; the state
		// and the parent follow.
		after := string(text[strings.LastIndexByte(string(text), ')')+1:])
		if f := strings.Fields(after); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			found = append(found, child)
		}
	}
	return found
}

// end has the dnsmasq end and waits until all of it is gone: whatever it was
// writing down of leases is written then.
func (o *orphan) end(ctx context.Context) error {
	if o == nil {
		return nil
	}
	for _, sig := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		// The server alone is asked to: the other one ends with it, its work done.
		targets := o.fds[:1]
		if sig == unix.SIGKILL {
			targets = o.fds
		}
		for _, fd := range targets {
			if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("ending libvirt's dnsmasq, process %d: %w", o.pid, readable(err))
			}
		}
		if gone, err := o.wait(ctx); gone || err != nil {
			return err
		}
	}
	return fmt.Errorf("ending libvirt's dnsmasq, process %d: it does not end", o.pid)
}

// wait reports whether all processes ended in time.
func (o *orphan) wait(ctx context.Context) (gone bool, err error) {
	const step = 100 * time.Millisecond
	for _, fd := range o.fds {
		for end := time.Now().Add(dnsmasqLimit); ; {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(step/time.Millisecond))
			switch {
			case n > 0:
			case err != nil && !errors.Is(err, unix.EINTR):
				return false, fmt.Errorf("waiting for process %d: %w", o.pid, err)
			case ctx.Err() != nil:
				return false, ctx.Err()
			case time.Now().After(end):
				return false, nil
			default:
				continue
			}
			break
		}
	}
	return true, nil
}

// process is the PID of the server; 0 for none.
func (o *orphan) process() int {
	if o == nil {
		return 0
	}
	return o.pid
}

// close lets go of the processes.
func (o *orphan) close() {
	if o == nil {
		return
	}
	for _, fd := range o.fds {
		_ = unix.Close(fd)
	}
	o.fds = nil
}
