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

	"github.com/google/go-cmp/cmp"

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
				got := replay(t, string(want))
				if os.Getenv("UPDATE") != "" {
					must(t, os.WriteFile(script, []byte(got), 0o644))
				} else if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", script, diff)
				}
			})
		})
	}
}

// replay runs the commands of a transcript, those after "$ ", with a shell in a
// folder where the files of testdata/virsh/files are, and returns it with what
// they print now. Lines before the first are its heading.
func replay(t *testing.T, transcript string) string {
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
		out.WriteString(line + shell(t, dir, command) + "\n")
	}
	return strings.TrimSuffix(out.String(), "\n")
}

// shell runs a command and returns what it printed and, unless it is 0, its
// exit code.
func shell(t *testing.T, dir, command string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", command)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "VIRSH_DEFAULT_CONNECT_URI=network:///system")
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
		got := shell(t, "testdata/virsh/files", "timeout 60 /usr/bin/python3 "+script)
		if os.Getenv("UPDATE") != "" {
			must(t, os.WriteFile("testdata/binding.txt", []byte(got), 0o644))
		}
		want, err := os.ReadFile("testdata/binding.txt")
		must(t, err)
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	})
}
