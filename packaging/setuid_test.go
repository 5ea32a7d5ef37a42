package packaging

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestNothingIsSetUserID holds that no program is installed with the rights of another user
// than the one who runs it, or with capabilities.
func TestNothingIsSetUserID(t *testing.T) {
	scripts, err := filepath.Glob("vnetd*.p*") // the maintainer scripts, and what lintian is told
	if err != nil {
		t.Fatal(err)
	}
	modes := regexp.MustCompile(`(?m)\binstall\b.*-m *([0-7]+)`)
	rights := regexp.MustCompile(`setcap|setuid|chmod.*([ug]\+s|\b[2467][0-7]{3}\b)`)
	installed := 0
	for _, path := range append(scripts, "deb.sh", "../Makefile") {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if found := rights.Find(text); found != nil {
			t.Errorf("%s has %q", path, found)
		}
		for _, m := range modes.FindAllSubmatch(text, -1) {
			if installed++; len(m[1]) != 3 {
				t.Errorf("%s: %s", path, m[0])
			}
		}
	}
	if installed < 10 {
		t.Errorf("%d files are installed with a mode, want all of the Makefile's", installed)
	}
}
