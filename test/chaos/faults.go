package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// roundTime is how long faults happen before all is left in peace.
const roundTime = 12 * time.Second

// fault is one kind of what can go wrong.
type fault struct {
	name   string
	weight int
	do     func(w *world) error
}

// faultKinds are all of them.
func faultKinds() []fault {
	return []fault{
		{"kill", 6, killed},
		{"restart", 3, restarted},
		{"reload", 2, func(w *world) error { return w.vnetd.Reload() }},
		{"halt for a second", 1, halted},
		{"bus restarts", 2, func(w *world) error { return w.lab.Bus.Restart() }},
		{"rules flushed", 2, flushed},
		{"rules' table deleted", 1, deletedTable},
		{"bridge deleted", 4, onBridge("link del %s")},
		{"bridge down", 2, onBridge("link set %s down")},
		{"addresses deleted", 3, onBridge("addr flush dev %s")},
		{"port taken off its bridge", 3, onTAP("link set %s nomaster")},
		{"uplink flaps", 2, flapped},
		{"disk full", 3, func(w *world) error { return full(w, nil) }},
		{"disk full over a kill", 1, func(w *world) error { return full(w, killed) }},
		{"fsync fails", 3, unsynced},
		{"no memory left", 2, outOfMemory},
		{"no descriptors left", 2, outOfFiles},
		{"clock jumps", 3, clockJumps},
		{"resolved restarts", 1, restartedResolver},
		{"run-state deleted", 1, lostRunState},
		{"nothing", 2, func(w *world) error { time.Sleep(time.Second); return nil }},
	}
}

// faultsOf are those of the names, or all.
func faultsOf(only string) []fault {
	names := strings.Split(only, ",")
	return slices.DeleteFunc(faultKinds(), func(f fault) bool { return only != "" && !slices.Contains(names, f.name) })
}

// draw is a fault by lot.
func (w *world) draw() fault {
	all := 0
	for _, f := range w.kinds {
		all += f.weight
	}
	lot := w.lots.IntN(all)
	for _, f := range w.kinds {
		if lot -= f.weight; lot < 0 {
			return f
		}
	}
	panic("unreachable")
}

// killed has vnetd die and be started again, sooner or later.
func killed(w *world) error {
	w.vnetd.Kill()
	time.Sleep(time.Duration(w.lots.IntN(500)) * time.Millisecond)
	w.start(nil)
	return nil
}

// restarted has vnetd started anew as on an update.
func restarted(w *world) error {
	ctx, cancel := context.WithTimeout(w.t.Context(), actLimit)
	defer cancel()
	left, err := w.vnetd.Leave(ctx)
	w.start(left)
	return err
}

// halted has vnetd do nothing for a second.
func halted(w *world) error {
	if err := unix.Kill(w.vnetd.PID(), unix.SIGSTOP); err != nil {
		return err
	}
	time.Sleep(time.Second)
	return unix.Kill(w.vnetd.PID(), unix.SIGCONT)
}

// lenient runs a program that may fail: what it is about may have gone meanwhile.
func lenient(name string, args ...string) error {
	_ = exec.Command(name, args...).Run()
	return nil
}

func flushed(w *world) error {
	for _, command := range []string{"iptables", "ip6tables"} {
		for _, table := range []string{"filter", "nat", "mangle"} {
			_ = lenient(command, "-w", "-t", table, "-F")
		}
	}
	return lenient("sh", "-c", "for t in 'ip vnetd' 'ip6 vnetd'; do nft flush table $t; done")
}

func deletedTable(w *world) error {
	guards := firewall.GuardTable(w.books.network(baseName(w.lots.IntN(bases))).bridge)
	table := [][2]string{{"ip", "vnetd"}, {"ip6", "vnetd"}, {"ip", "vnetd_keep"}, {"netdev", guards}}[w.lots.IntN(4)]
	return lenient("nft", "delete", "table", table[0], table[1])
}

// onBridge is a command of ip(8) for a bridge of vnetd's, that of guests as likely as others.
func onBridge(command string) func(w *world) error {
	return func(w *world) error {
		name := w.books.network(baseName(w.lots.IntN(bases))).bridge
		if w.lots.IntN(2) == 0 {
			a := w.admins[w.lots.IntN(len(w.admins))]
			name = a.nets[w.lots.IntN(netsEach)].bridge
		}
		return lenient("sh", "-c", "ip "+fmt.Sprintf(command, name))
	}
}

// onTAP is a command of ip(8) for a port of a guest.
func onTAP(command string) func(w *world) error {
	return func(w *world) error {
		ports, _ := filepath.Glob("/sys/class/net/*/tun_flags")
		if len(ports) == 0 {
			return nil
		}
		name := filepath.Base(filepath.Dir(ports[w.lots.IntN(len(ports))]))
		return lenient("sh", "-c", "ip "+fmt.Sprintf(command, name))
	}
}

func flapped(w *world) error {
	_ = lenient("ip", "link", "set", "eno1", "down")
	time.Sleep(300 * time.Millisecond)
	_ = lenient("ip", "link", "set", "eno1", "up")
	_ = lenient("ip", "route", "replace", "default", "via", "203.0.113.1")
	return lenient("ip", "-6", "route", "replace", "default", "via", "2001:db8:ffff::1")
}

// full has the disk of vnetd's state be full for a while, in which further happens.
func full(w *world, further func(w *world) error) error {
	const file = stateDir + "/ballast"
	f, err := os.Create(file)
	if err == nil {
		_, _ = io.Copy(f, zeros{})
		_ = f.Close()
	}
	defer func() { _ = os.Remove(file) }()
	if further != nil {
		return further(w)
	}
	time.Sleep(w.moment())
	return nil
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// outOfFiles has vnetd have as many descriptors as it may for a while.
func outOfFiles(w *world) error {
	var was unix.Rlimit
	pid := w.vnetd.PID()
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
		return err
	}
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return err
	}
	few := unix.Rlimit{Cur: uint64(len(entries) + 2), Max: was.Max}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil); err != nil {
		return err
	}
	time.Sleep(w.moment())
	return unix.Prlimit(pid, unix.RLIMIT_NOFILE, &was, nil)
}

// lostRunState deletes a file of vnetd's run-state, but none of a transient network: until
// it is written anew, nothing else says what that is.
func lostRunState(w *world) error {
	files, _ := filepath.Glob("/run/vnetd/*/*.json")
	if len(files) == 0 {
		return nil
	}
	file := files[w.lots.IntN(len(files))]
	if text, err := os.ReadFile(file); err == nil && (filepath.Base(filepath.Dir(file)) == "ports" || bytes.Contains(text, []byte(`"persistent":true`))) {
		_ = os.Remove(file)
	}
	return nil
}

// fetch is what an address of this host serves by HTTP.
func fetch(address string) ([]byte, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(actLimit))
	if _, err := io.WriteString(conn, "GET /metrics HTTP/1.0\r\n\r\n"); err != nil {
		return nil, err
	}
	all, err := io.ReadAll(conn)
	_, body, _ := bytes.Cut(all, []byte("\r\n\r\n"))
	return body, err
}
