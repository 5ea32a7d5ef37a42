package clienttest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
)

// The documents that the examples use.
const (
	labXML = `<network><name>lab</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid></network>`
	webXML = `<network><name>web</name></network>`
)

// TestDocExamples runs the examples of docs/dbus.md in their order.
func TestDocExamples(t *testing.T) {
	if _, err := exec.LookPath("busctl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	clienttest.SetClusters(clienttest.New(t), api.Cluster{Name: "lab", Host: "h1", Lost: "emptied"})
	dir := t.TempDir()
	for name, text := range map[string]string{"lab.xml": labXML, "web.xml": webXML} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	examples := docExamples(t)
	if len(examples) < 20 {
		t.Fatalf("only %d examples", len(examples))
	}
	for _, example := range examples {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", example)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", example, err, out)
		}
	}
}

// docExamples returns the commands that call vnetd, with the UUID of their port
// replaced by that of the server's: web has the first identifier.
func docExamples(t *testing.T) (examples []string) {
	t.Helper()
	text, err := os.ReadFile("../../../docs/dbus.md")
	if err != nil {
		t.Fatal(err)
	}
	port := strings.NewReplacer(
		"0e1c9f52-77a4-4c0b-9d59-6a1f0f1d2c3b", "00000000-0000-4000-8000-000000000002",
		"0e1c9f52_77a4_4c0b_9d59_6a1f0f1d2c3b", "00000000_0000_4000_8000_000000000002",
	)
	for line := range strings.Lines(string(text)) {
		command, ok := strings.CutPrefix(line, "$ ")
		verb := strings.Fields(command)
		if !ok || len(verb) < 2 || verb[1] == "tree" || verb[1] == "introspect" || verb[1] == "monitor" {
			continue
		}
		examples = append(examples, port.Replace(strings.TrimSpace(command)))
	}
	return examples
}
