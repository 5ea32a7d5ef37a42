package nstest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
)

// EtcdProgram is the server of etcd that tests run: Debian's, which test/deps.sh unpacks, or the
// file that VNETD_ETCD names in the environment.
func EtcdProgram() (string, error) {
	if program := os.Getenv("VNETD_ETCD"); program != "" {
		if _, err := os.Stat(program); err != nil {
			return "", fmt.Errorf("VNETD_ETCD: %w", err)
		}
		return program, nil
	}
	top, err := Root()
	if err != nil {
		return "", fmt.Errorf("finding etcd: %w", err)
	}
	program := filepath.Join(top, ".cache", "etcd", "root", "usr", "bin", "etcd")
	if _, err := os.Stat(program); err != nil {
		return "", fmt.Errorf("no etcd, run test/deps.sh: %w", err)
	}
	return program, nil
}

// Etcd is a server of etcd with data of its own.
type Etcd struct {
	t    TB
	args []string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{}
}

// StartEtcd starts etcd in the test's namespace, with arguments that follow its name and
// the directory of its data. It ends with the test.
func StartEtcd(t TB, args ...string) *Etcd {
	t.Helper()
	program, err := EtcdProgram()
	if err != nil {
		t.Fatalf("%v", err)
	}
	// In memory: etcd waits for the disk after each write.
	dir, err := os.MkdirTemp("/run", "etcd")
	if err != nil {
		t.Fatalf("making a directory for etcd: %v", err)
	}
	e := &Etcd{t: t, args: append([]string{program, "--data-dir", dir, "--logger", "zap", "--log-level", "warn"}, args...)}
	e.Start()
	t.Cleanup(func() {
		e.Stop()
		_ = os.RemoveAll(dir) // the test's /run goes with it
		if t.Failed() {
			t.Logf("etcd says:\n%s", e.log)
		}
	})
	return e
}

// Start starts it again, with the data that it has.
func (e *Etcd) Start() {
	e.t.Helper()
	e.log, e.done = new(bytes.Buffer), make(chan struct{})
	e.cmd = exec.Command(e.args[0], e.args[1:]...)
	e.cmd.Stdout, e.cmd.Stderr = e.log, e.log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func(cmd *exec.Cmd, done chan<- struct{}) {
		defer close(done)
		runtime.LockOSThread() // Pdeathsig is of the thread that starts it, and others come and go
		err := cmd.Start()
		if started <- err; err == nil {
			_ = cmd.Wait() // Stop kills it
		}
	}(e.cmd, e.done)
	if err := <-started; err != nil {
		e.t.Fatalf("starting etcd: %v", err)
	}
}

// Signal sends it a signal: SIGSTOP has it stand still, SIGCONT go on.
func (e *Etcd) Signal(s syscall.Signal) {
	e.t.Helper()
	if err := e.cmd.Process.Signal(s); err != nil {
		e.t.Fatalf("etcd: %v", err)
	}
}

// Stop kills it.
func (e *Etcd) Stop() {
	_ = e.cmd.Process.Kill() // it may have ended
	<-e.done
}

// Wipe kills it, and removes its data.
func (e *Etcd) Wipe() {
	e.t.Helper()
	e.Stop()
	if err := os.RemoveAll(e.args[2]); err != nil {
		e.t.Fatalf("removing the data of etcd: %v", err)
	}
}
