package nstest

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// resolvedTree is where test/deps.sh unpacks systemd-resolved, below the root of
// the source tree: installed, it would take the machine's name service over.
const resolvedTree = ".cache/resolved/root"

// resolvedUser is the account that resolved runs as.
var resolvedUser = User{Name: "systemd-resolve", UID: 64053}

// Resolved is a systemd-resolved, the test's hypervisor's own.
type Resolved struct {
	t    TB
	root string
	cmd  *exec.Cmd
	log  *syncBuffer
}

// StartResolved starts systemd-resolved on the bus of StartBus. It is on the bus
// when StartResolved returns, and ended with the test.
func StartResolved(t TB) *Resolved {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatalf("finding systemd-resolved: %v", err)
	}
	NewUsers(t, resolvedUser)
	Exec(t, "install", "-d", "-o", resolvedUser.Name, "-g", resolvedUser.Name, "/run/systemd/resolve", "/run/systemd/netif")
	r := &Resolved{t: t, root: filepath.Join(root, resolvedTree), log: new(syncBuffer)}
	t.Cleanup(func() {
		r.Stop()
		if t.Failed() {
			t.Logf("log of systemd-resolved:\n%s", r.log)
		}
	})
	r.Start()
	return r
}

// Start starts it again after Stop.
func (r *Resolved) Start() {
	r.t.Helper()
	r.cmd = exec.CommandContext(context.WithoutCancel(r.t.Context()), filepath.Join(r.root, "lib/systemd/systemd-resolved"))
	r.cmd.Stdout, r.cmd.Stderr = r.log, r.log
	if err := r.cmd.Start(); err != nil {
		r.t.Fatalf("starting systemd-resolved, which test/deps.sh fetches: %v", err)
	}
	Eventually(r.t, startLimit, "systemd-resolved is on the bus", func() error {
		_, err := r.Resolvectl("status")
		return err
	})
}

// Stop ends it; what links were told is forgotten. It does nothing the second
// time.
func (r *Resolved) Stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

// Resolvectl is what resolvectl prints. A failure has it in the error.
func (r *Resolved) Resolvectl(args ...string) (string, error) {
	args = append([]string{"--no-pager"}, args...)
	out, err := exec.CommandContext(r.t.Context(), filepath.Join(r.root, "usr/bin/resolvectl"), args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("resolvectl %v: %w\n%s", args[1:], err, out)
	}
	return string(out), nil
}
