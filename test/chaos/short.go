package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// moment is for how long a fault lasts that vnetd lives with.
func (w *world) moment() time.Duration {
	return time.Duration(500+w.lots.IntN(1500)) * time.Millisecond
}

// letGo is how long strace may take to let go of vnetd. Where that has just begun to execute
// a program it never does: it waits for a child that waits for it.
const letGo = 5 * time.Second

// unsynced has fsync(2) and fdatasync(2) of vnetd fail for a while, all of them or some: strace
// answers in the kernel's place.
func unsynced(w *world) error {
	fail := "inject=fsync,fdatasync:error=EIO" + []string{"", ":when=1+2", ":when=2+3"}[w.lots.IntN(3)]
	said := new(strings.Builder)
	cmd := exec.Command("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", fail, "-o", "/dev/null", "-p", strconv.Itoa(w.vnetd.PID()))
	cmd.Stderr = said
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("strace: %w: %s", err, said)
	case <-time.After(w.moment()):
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil { // it lets go, and ends
		return err
	}
	select {
	case <-ended:
	case <-time.After(letGo):
		_ = cmd.Process.Kill() // the kernel lets go in its place
		<-ended
	}
	return nil
}

// restartedResolver has systemd-resolved forget all that it was told.
func restartedResolver(w *world) error {
	w.resolved.Stop()
	time.Sleep(time.Duration(w.lots.IntN(500)) * time.Millisecond)
	w.resolved.Start()
	return nil
}

// pens is where control groups are (cgroups(7)) that bound memory.
const pens = "/run/chaos-pens"

// mountPens mounts them, of either version, and returns the name of the file with the bound.
func mountPens() (bound string, err error) {
	if err := os.MkdirAll(pens, 0o755); err != nil {
		return "", err
	}
	if unix.Mount("cgroup", pens, "cgroup", 0, "memory") == nil {
		return "memory.limit_in_bytes", nil
	}
	if err := unix.Mount("cgroup2", pens, "cgroup2", 0, ""); err != nil {
		return "", err
	}
	return "memory.max", os.WriteFile(filepath.Join(pens, "cgroup.subtree_control"), []byte("+memory"), 0)
}

// ownPen is the control group that we are in ourselves.
func ownPen() (string, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	own := pens
	for line := range strings.Lines(string(text)) {
		of := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(of) == 3 && (of[1] == "memory" || of[1] == "" && own == pens) {
			own = filepath.Join(pens, of[2])
		}
	}
	return own, err
}

// outOfMemory has vnetd get a few MiB more and nothing beyond that for a while. Where it needs
// more the kernel kills it, and it is started again.
func outOfMemory(w *world) error {
	own, err := ownPen()
	if err != nil {
		return err
	}
	pen, err := os.MkdirTemp(pens, "chaos-")
	if err != nil {
		return err
	}
	enter := func(pen string) error {
		return os.WriteFile(filepath.Join(pen, "cgroup.procs"), []byte(strconv.Itoa(w.vnetd.PID())), 0)
	}
	few := strconv.Itoa((1 + w.lots.IntN(8)) << 20)
	if err := errors.Join(os.WriteFile(filepath.Join(pen, w.bound), []byte(few), 0), enter(pen)); err != nil {
		return err
	}
	select {
	case <-w.vnetd.Done():
	case <-time.After(w.moment()):
		_ = enter(own) // it may have been killed
	}
	if !lives(w.vnetd.Done(), func() error { _, err := fetch(metricsAddress); return err }) {
		w.start(nil)
	}
	for deadline := time.Now().Add(actLimit); ; time.Sleep(20 * time.Millisecond) { // what it has executed may be in there
		if err = os.Remove(pen); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// lives waits until one who may have been killed answers or is done, and reports whether it lives:
// it may take a killed one long to go. One that does neither is left to the checks.
func lives(done <-chan struct{}, ask func() error) bool {
	deadline := time.After(actLimit)
	for {
		answer := make(chan error, 1)
		go func() { answer <- ask() }()
		select {
		case <-done:
			return false
		case <-deadline:
			return true
		case err := <-answer:
			if err != nil {
				time.Sleep(20 * time.Millisecond)
				continue
			}
		}
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
}
