package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestAgent checks that polkit's agent is started for this very process, leaves
// an agent of the desktop in charge, and is waited for until it is registered.
func TestAgent(t *testing.T) {
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >%s/args\nexec 3>&-\nexec sleep 600\n", dir)
	if err := os.WriteFile(filepath.Join(dir, "pkttyagent"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	startAgent(t.Context())
	got, err := os.ReadFile(filepath.Join(dir, "args"))
	if want := fmt.Sprintf("--fallback --process %d --notify-fd 3\n", os.Getpid()); err != nil || string(got) != want {
		t.Errorf("%q (%v), want %q", got, err, want)
	}
}
