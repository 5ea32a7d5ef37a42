package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestSecurityIsHeld holds that each row of SECURITY.md names a test that holds it, and that
// all tests that it names exist.
func TestSecurityIsHeld(t *testing.T) {
	page, err := os.ReadFile("../../SECURITY.md")
	if err != nil {
		t.Fatal(err)
	}
	exists := tests(t)
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9_]+)`")
	rows, figures := 0, false
	for line := range strings.Lines(string(page)) {
		holding := named.FindAllStringSubmatch(line, -1)
		for _, name := range holding {
			if !exists[name[1]] {
				t.Errorf("SECURITY.md names %s, and there is no such test: %s", name[1], line)
			}
		}
		figures = strings.HasPrefix(line, "| flood |") || figures && strings.HasPrefix(line, "|") // which a test prints
		if figures || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| attack |") {
			continue
		}
		if rows++; len(holding) == 0 {
			t.Errorf("no test holds this row of SECURITY.md: %s", line)
		}
	}
	if rows < 30 {
		t.Errorf("SECURITY.md has %d rows, want all of them", rows)
	}
}

// tests are the names of all tests and fuzz targets of the project.
func tests(t *testing.T) map[string]bool {
	t.Helper()
	begins := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	names := make(map[string]bool)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && len(d.Name()) > 2 && d.Name()[0] == '.':
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range begins.FindAllSubmatch(text, -1) {
			names[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}
