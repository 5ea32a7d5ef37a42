package e2e

import (
	"bufio"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
)

// TestExampleOfTheClient runs the example that pkg/client documents, which starts
// a guest in under 30 lines.
func TestExampleOfTheClient(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		launcher := buildExample(t)
		l := nstest.NewLab(t)
		l.StartVnetd()
		xml := strings.Replace(labXML(""), "<name>lab</name>", "<name>default</name>", 1)
		if err := l.VnetctlInput(t.Context(), xml, "define", "-").Err(); err != nil {
			t.Fatal(err)
		}
		said, end := launch(t, launcher)
		address := regexp.MustCompile(`^the guest has \[(192\.0\.2\.\d+)\]$`).FindStringSubmatch(said)
		if address == nil {
			t.Fatalf("the example said %q", said)
		}
		list := ports(t)
		if len(list) != 1 || list[0].Name != "web1" || list[0].Queues != 2 || len(list[0].Addresses) != 1 || list[0].Addresses[0].String() != address[1] {
			t.Errorf("when the example said %q the ports were %+v", said, list)
		}
		end()
		nstest.Eventually(t, limit, "the port going", func() error { return noPorts(t) })
	})
}

// launch runs a launcher where the guest's files are, and returns the first line
// that it prints and what ends it and all that it started, as the test does.
func launch(t *testing.T, launcher string) (said string, end func()) {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(launcher)
	cmd.Dir = filepath.Join(root, ".cache", "guest")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	timeout := time.AfterFunc(2*limit, end) // what never comes must not be waited for
	defer timeout.Stop()
	lines := bufio.NewScanner(out)
	lines.Scan()
	return lines.Text(), end
}

// buildExample makes a program of the example of pkg/client: its text as it is,
// as main.
func buildExample(t *testing.T) string {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, filepath.Join(root, "pkg", "client", "example_test.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	file.Name.Name = "main"
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "Example" {
			continue
		}
		f.Name.Name = "main"
		if lines := files.Position(f.Body.Rbrace).Line - files.Position(f.Body.Lbrace).Line - 1; lines >= 30 {
			t.Errorf("the example has %d lines, and is to start a guest in under 30", lines)
		}
	}
	dir := t.TempDir()
	source, err := os.Create(filepath.Join(dir, "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if err := format.Node(source, files, file); err != nil {
		t.Fatal(err)
	}
	launcher := filepath.Join(dir, "launcher")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", launcher, source.Name())
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the example: %v\n%s", err, out)
	}
	return launcher
}
