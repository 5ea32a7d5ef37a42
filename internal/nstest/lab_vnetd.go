package nstest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// startLimit is how long vnetd, or what it needs, may take until it is ready. It only
// ends tests that would hang.
const startLimit = 3 * time.Minute

// Vnetd is a running daemon.
type Vnetd struct {
	// Ready is the time from starting the process to its READY=1.
	Ready time.Duration

	cmd     *exec.Cmd
	manager *serviceManager
	log     *syncBuffer
	done    chan struct{} // closed when the process is gone
}

// StartVnetd starts vnetd with its default configuration and waits until it
// tells its service manager that it is ready. It is killed when the test ends,
// and its log is shown when the test failed.
func (l *Lab) StartVnetd(args ...string) *Vnetd { return l.StartVnetdWith(nil, args...) }

// StartVnetdWith is StartVnetd with sockets besides those that the former vnetd of the lab
// has left, if it was killed, see Vnetd.Kill: with those of Vnetd.Leave, or of socket units.
func (l *Lab) StartVnetdWith(left []*os.File, args ...string) *Vnetd {
	l.t.Helper()
	v, err := l.startVnetd(left, args)
	if err != nil {
		l.t.Fatalf("starting vnetd: %v", err)
	}
	return v
}

func (l *Lab) startVnetd(left []*os.File, args []string) (*Vnetd, error) {
	for _, name := range []string{"vnetd", "vnetctl", "vnet-bridge-helper"} {
		if _, err := exec.LookPath(filepath.Join(l.Bin, name)); err != nil {
			return nil, fmt.Errorf("the programs are not built, run make build: %w", err)
		}
	}
	manager, err := newServiceManager()
	if err != nil {
		return nil, err
	}
	left = append(left, l.vnetd.stored()...)
	v := &Vnetd{cmd: exec.Command(filepath.Join(l.Bin, "vnetd"), args...), manager: manager, log: new(syncBuffer), done: make(chan struct{})}
	v.cmd.Stdout, v.cmd.Stderr = v.log, v.log
	l.vnetd = v
	manager.prepare(v.cmd, left)
	begin := time.Now()
	if err := v.cmd.Start(); err != nil {
		manager.close()
		return nil, err
	}
	go func() {
		defer close(v.done)
		_ = v.cmd.Wait()
		manager.close()
	}()
	l.t.Cleanup(func() {
		v.Kill()
		closeFiles(manager.take())
		if l.t.Failed() {
			l.t.Logf("log of vnetd:\n%s", v.Log())
		}
	})
	select {
	case <-manager.ready:
	case <-v.done:
		return nil, fmt.Errorf("it ended before it was ready\n%s", v.Log())
	case <-time.After(startLimit):
		return nil, fmt.Errorf("no READY=1 within %v\n%s", startLimit, v.Log())
	}
	v.Ready = time.Since(begin)
	return v, nil
}

// stored is what the service manager keeps of v, if that is gone.
func (v *Vnetd) stored() []*os.File {
	if v == nil {
		return nil
	}
	select {
	case <-v.done:
		return v.manager.take()
	default:
		return nil
	}
}

// Stored lists the names of the descriptors that the service manager keeps for the next
// vnetd, one for each.
func (v *Vnetd) Stored() []string { return v.manager.names() }

// Kill ends vnetd with SIGKILL and waits until it is gone. The next one that the lab starts
// gets what is stored, as with Restart=on-failure of systemd.service(5).
func (v *Vnetd) Kill() {
	_ = v.cmd.Process.Kill()
	<-v.done
}

// Stop ends vnetd with SIGTERM and waits until it is gone. It returns an error
// if vnetd did not end with exit code 0. What vnetd has left is closed, as a service
// manager does when a service is stopped for good.
func (v *Vnetd) Stop(ctx context.Context) error {
	err := v.end(ctx)
	closeFiles(v.manager.take())
	return err
}

// end ends vnetd.
func (v *Vnetd) end(ctx context.Context) error {
	if err := v.cmd.Process.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("stopping vnetd: %w", err)
	}
	select {
	case <-v.done:
	case <-ctx.Done():
		return fmt.Errorf("stopping vnetd: %w", ctx.Err())
	}
	if code := v.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("vnetd ended with exit code %d: %s", code, v.Log())
	}
	return nil
}

// Leave is Stop as a service manager does it who is about to start vnetd again. It
// returns what vnetd has left to the next one, for StartVnetdWith.
func (v *Vnetd) Leave(ctx context.Context) ([]*os.File, error) {
	err := v.end(ctx)
	return v.manager.take(), err
}

// PID is the process's.
func (v *Vnetd) PID() int { return v.cmd.Process.Pid }

// Reload sends vnetd SIGHUP. It returns before vnetd has reloaded.
func (v *Vnetd) Reload() error { return v.cmd.Process.Signal(unix.SIGHUP) }

// Done is closed when vnetd is gone.
func (v *Vnetd) Done() <-chan struct{} { return v.done }

// Log is what vnetd wrote so far.
func (v *Vnetd) Log() string { return v.log.String() }

// Cleanup runs vnetd --cleanup, which removes all that vnetd made, and closes what the service
// manager keeps of one that is gone: its sockets have the ports of those who come after it.
func (l *Lab) Cleanup(ctx context.Context) error {
	closeFiles(l.vnetd.stored())
	out, err := exec.CommandContext(ctx, filepath.Join(l.Bin, "vnetd"), "--cleanup").CombinedOutput()
	if err != nil {
		return fmt.Errorf("vnetd --cleanup: %w: %s", err, out)
	}
	return nil
}

// syncBuffer is a buffer that may be read while it is written.
type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

// Write never fails.
func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// String is what was written so far.
func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
