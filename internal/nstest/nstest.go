// Package nstest runs tests on the real kernel without touching the machine
// they run on. Tests only; nothing that ships imports it.
//
// A test that needs the kernel wraps its body in Run. Run executes the same
// test binary again in fresh network, mount and PID namespaces and runs only
// that test there, so that links, rules, sysctls, /run and processes are the
// test's own and are gone when it ends. Unsharing inside the running process
// would not do: the Go runtime moves goroutines over threads that were never
// unshared.
package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The environment that tells a re-executed test binary which test it is for,
// and the file descriptor on which it says that the body began.
const (
	envTest   = "VNETD_NSTEST"
	startedFD = 3
)

// childMargin is how much earlier than the parent's deadline the child's falls,
// so that the child prints its own stacks before the parent gives up.
const childMargin = 5 * time.Second

// Run calls body in namespaces of its own. It must be the only statement of a
// test or subtest that may have an effect: what stands before it runs in the
// machine's own namespaces too. It fails the test where namespaces can't be
// made (not root) and where the body skipped: a skip would hide a failure. The test runs
// beside others, as t.Parallel has it.
func Run(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(envTest) == t.Name() {
		if err := enter(); err != nil {
			t.Fatalf("preparing namespaces: %v", err)
		}
		announce()
		body(t)
		return
	}
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	t.Parallel() // nothing of it is shared, and most of its time it waits
	runChild(t)
}

// Beside has a test that is nothing but subtests, each of them in Run, stand beside other tests
// like one in Run itself. Else no other test begins until the last of its subtests has ended.
func Beside(t *testing.T) {
	t.Helper()
	if os.Getenv(envTest) == "" { // in its namespaces a subtest is alone, and may change the environment
		t.Parallel()
	}
}

// runChild executes this test binary for t alone and reports its outcome.
func runChild(t *testing.T) {
	t.Helper()
	started, w, err := os.Pipe()
	if err != nil {
		t.Fatalf("making a pipe: %v", err)
	}
	defer func() { _ = started.Close() }()
	args := []string{"-test.run=" + exactPattern(t.Name()), "-test.v=true", "-test.count=1"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+max(time.Until(deadline)-childMargin, time.Second).String())
	}
	cmd := exec.Command("/proc/self/exe", args...)
	// The race detector's second of waiting at exit finds nothing here.
	cmd.Env = append(os.Environ(), envTest+"="+t.Name(), "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Start()
	_ = w.Close()
	if err != nil {
		t.Fatalf("starting the test in its namespaces: %v", err)
	}
	n, _ := started.Read(make([]byte, 1))
	err = cmd.Wait()
	switch {
	case err != nil:
		t.Fatalf("in its namespaces: %v\n%s", err, out)
	case n == 0:
		t.Fatalf("the body never ran in its namespaces:\n%s", out)
	case strings.Contains(out.String(), "--- SKIP: "+t.Name()):
		t.Fatalf("the body skipped:\n%s", out)
	case testing.Verbose():
		t.Logf("\n%s", out)
	}
}

// exactPattern is the -test.run pattern that matches the one test of that name.
func exactPattern(name string) string {
	parts := strings.Split(name, "/")
	for i, part := range parts {
		parts[i] = "^" + regexp.QuoteMeta(part) + "$"
	}
	return strings.Join(parts, "/")
}

// announce tells the parent that the body is about to run.
func announce() {
	f := os.NewFile(startedFD, "started")
	_, _ = f.Write([]byte{1})
	_ = f.Close()
}

// enter makes the fresh namespaces habitable: no mount is shared with the
// machine, /proc and /sys show the namespaces' own state, /run is empty, lo is
// up, and what an installed vnetd keeps in /etc and /var/lib is out of sight.
func enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"tmpfs", "/run"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.at, err)
		}
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil {
		return err
	}
	for _, at := range []string{"/etc/vnetd", "/var/lib/vnetd"} {
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, ""); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mounting %s: %w", at, err)
		}
	}
	return command(context.Background(), "ip", "link", "set", "lo", "up")
}

// command runs a program; its output becomes part of the error.
func command(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// Exec runs a program in the test's own namespace, returns its standard output
// and fails the test when it fails.
func Exec(t TB, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return string(out)
}

// IP runs ip(8) with blank-separated arguments, as on a command line.
func IP(t TB, args string) string {
	t.Helper()
	return Exec(t, "ip", strings.Fields(args)...)
}

// Eventually calls probe until it returns nil, at most for limit, and fails the
// test with its last error otherwise.
func Eventually(t TB, limit time.Duration, what string, probe func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	err := errors.New("never probed")
	for ; time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if err = probe(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %v: %v", what, limit, err)
}
