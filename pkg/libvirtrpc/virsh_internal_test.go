package libvirtrpc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
)

// TestVirsh plays transcripts of an unmodified virsh: what stands in
// testdata/virsh is what it prints. With UPDATE set in the environment they are
// written anew.
func TestVirsh(t *testing.T) {
	scripts, err := filepath.Glob("testdata/virsh/*.txt")
	must(t, err)
	if len(scripts) == 0 {
		t.Fatal("no transcripts")
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				startDaemon(t, t.TempDir(), nil)
				want, err := os.ReadFile(script)
				must(t, err)
				got := replay(t, string(want), connectionURI)
				golden.Compare(t, script, got)
			})
		})
	}
}

// replay runs the commands of a transcript, those after "$ ", with a shell in a
// folder where the files of testdata/virsh/files are, on a connection to uri, and
// returns it with what they print now. Lines before the first are its heading.
func replay(t *testing.T, transcript, uri string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS("testdata/virsh/files")))
	var out strings.Builder
	began := false
	for line := range strings.Lines(transcript) {
		command, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "$ ")
		if !ok {
			if !began {
				out.WriteString(line)
			}
			continue
		}
		began = true
		out.WriteString(line + shell(t, uri, dir, command) + "\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// shell runs a command, for virsh on a connection to uri, and returns what it printed and, unless it is 0, its
// exit code.
func shell(t *testing.T, uri, dir, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "VIRSH_DEFAULT_CONNECT_URI="+uri)
	out, err := cmd.CombinedOutput()
	text := string(bytes.TrimRight(out, "\n"))
	if text != "" {
		text += "\n"
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return text + fmt.Sprintf("[%d]\n", exit.ExitCode())
	}
	must(t, err)
	return text
}

// TestPythonBinding runs a program that uses libvirt's own binding of Python:
// testdata/binding.txt is what it sees.
func TestPythonBinding(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		script, err := filepath.Abs("testdata/binding.py")
		must(t, err)
		got := shell(t, connectionURI, "testdata/virsh/files", "timeout 60 /usr/bin/python3 "+script)
		golden.Compare(t, "testdata/binding.txt", got)
	})
}

// TestVirshWaitsForEvents holds that virsh, which watches without end, tells of each
// event in its words and in order, and ends well when it is interrupted.
func TestVirshWaitsForEvents(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		startDaemon(t, t.TempDir(), nil)
		out := filepath.Join(t.TempDir(), "events")
		f, err := os.Create(out)
		must(t, err)
		watch := exec.CommandContext(t.Context(), "virsh", "-c", connectionURI, "net-event", "--loop", "--event", "lifecycle")
		watch.Stdout, watch.Stderr = f, f
		must(t, watch.Start())
		heard := func() string {
			text, err := os.ReadFile(out)
			must(t, err)
			return string(text)
		}
		r := opened(t, socketPath)
		do := func(proc int32, n string) { r.ok(proc, func(e *encoder) { e.ref(ref{n, parseUUID(probeUUID)}) }) }
		const probe = "<network><name>probe</name><uuid>" + probeUUID + "</uuid></network>"
		nstest.Eventually(t, soon, "virsh watches", func() error {
			r.ok(40, func(e *encoder) { e.string(probe) })
			do(42, "probe")
			if heard() == "" {
				return errors.New("it has heard nothing yet")
			}
			return nil
		})
		r.ok(41, func(e *encoder) { e.string(strings.Replace(probe, "probe", "lab", 1)) })
		for _, proc := range []int32{39, 42, 49} {
			do(proc, "lab")
		}
		var want strings.Builder
		for _, what := range []string{"Defined", "Started", "Stopped", "Undefined"} {
			fmt.Fprintf(&want, "event 'lifecycle' for network lab: %s\n", what)
		}
		nstest.Eventually(t, soon, "virsh tells of the events", func() error {
			if got := heard(); !strings.HasSuffix(got, want.String()) {
				return fmt.Errorf("it says\n%s", got)
			}
			return nil
		})
		must(t, watch.Process.Signal(os.Interrupt))
		must(t, watch.Wait())
		if got := heard(); !strings.Contains(got, "events received: ") {
			t.Errorf("at its end virsh says\n%s", got)
		}
		if got := shell(t, connectionURI, ".", "virsh event --all --loop"); got != "error: this function is not supported by the connection driver: virConnectDomainEventRegisterAny\n[1]\n" {
			t.Errorf("events of domains: %q", got)
		}
	})
}

const probeUUID = "02000000-0000-0000-0000-000000000000"
