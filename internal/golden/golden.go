// Package golden compares what tests get with files that stand in their testdata. Tests alone
// use it. With UPDATE=1 in the environment, which reaches tests in namespaces as a flag would
// not, the files are written anew.
package golden

import (
	"os"
	"strings"

	"github.com/google/go-cmp/cmp"
)

// TB is what is asked of a test.
type TB interface {
	Helper()
	Fatal(args ...any)
	Errorf(format string, args ...any)
}

// Update reports whether files are written anew.
func Update() bool { return os.Getenv("UPDATE") != "" }

// Compare fails the test if got is not what the file of that path has.
func Compare(t TB, path, got string) {
	t.Helper()
	if Update() {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}
