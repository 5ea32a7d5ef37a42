package docs_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/docs"
)

// TestConditions holds that both tables are read to their ends, and as plain text.
func TestConditions(t *testing.T) {
	all := docs.Conditions()
	by := func(kind string) docs.Condition {
		at := slices.IndexFunc(all, func(c docs.Condition) bool { return c.Kind == kind })
		if at < 0 {
			t.Fatalf("%s is not among %d conditions", kind, len(all))
		}
		return all[at]
	}
	for _, kind := range []string{"drop-policy", "disk-full", "disk-read-only", "bridge-orphaned"} {
		if by(kind).Meaning == "" {
			t.Errorf("%s means nothing", kind)
		}
	}
	if help := by("reverse-path").Help; !strings.Contains(help, "sysctl -w") {
		t.Errorf("the help for reverse-path is %q, want a command", help)
	}
	for _, c := range all {
		if strings.Contains(c.Meaning+c.Help, "](") {
			t.Errorf("%s: a link is left in %q", c.Kind, c.Meaning+c.Help)
		}
	}
}
