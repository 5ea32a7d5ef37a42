package nstest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Bird is the router BIRD, which test/deps.sh unpacks, in a namespace.
type Bird struct {
	t    TB
	ns   *NS
	env  []string
	dir  string
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan struct{}
}

// StartBird starts BIRD in ns, with that configuration. It ends with the test.
func StartBird(t TB, ns *NS, config string) *Bird {
	t.Helper()
	top, err := Root()
	if err != nil {
		t.Fatalf("finding BIRD: %v", err)
	}
	root := filepath.Join(top, ".cache", "bird", "root")
	if _, err := os.Stat(filepath.Join(root, "usr", "sbin", "bird")); err != nil {
		t.Fatalf("no BIRD, run test/deps.sh: %v", err)
	}
	dir, err := os.MkdirTemp("/run", "bird")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "bird.conf"), []byte(config), 0o600)
	}
	if err != nil {
		t.Fatalf("making a directory for BIRD: %v", err)
	}
	b := &Bird{t: t, ns: ns, dir: dir, env: []string{"env", "LD_LIBRARY_PATH=" + filepath.Join(root, "usr", "lib", "x86_64-linux-gnu"), filepath.Join(root, "usr", "sbin")}}
	b.Start()
	t.Cleanup(func() {
		b.Stop()
		if t.Failed() {
			t.Logf("BIRD says:\n%s", b.log)
		}
	})
	return b
}

// command is the command line of one of BIRD's programs.
func (b *Bird) command(program string, args ...string) []string {
	return append([]string{b.env[1], filepath.Join(b.env[2], program), "-s", filepath.Join(b.dir, "ctl")}, args...)
}

// Start starts it again, with the configuration that it has.
func (b *Bird) Start() {
	b.t.Helper()
	b.log, b.done = new(bytes.Buffer), make(chan struct{})
	b.cmd = b.ns.Command(b.t.Context(), "env", b.command("bird", "-f", "-c", filepath.Join(b.dir, "bird.conf"))...)
	b.cmd.Stdout, b.cmd.Stderr = b.log, b.log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatalf("starting BIRD: %v", err)
	}
	go func(cmd *exec.Cmd, done chan<- struct{}) {
		_ = cmd.Wait() // Stop kills it
		close(done)
	}(b.cmd, b.done)
}

// Stop kills it.
func (b *Bird) Stop() {
	_ = b.cmd.Process.Kill() // it may have ended
	<-b.done
}

// Do has BIRD do something, a command of birdc(8), and returns what that says.
func (b *Bird) Do(command string) string {
	out, err := b.ns.Command(b.t.Context(), "env", b.command("birdc", strings.Fields(command)...)...).CombinedOutput()
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return string(out)
}
