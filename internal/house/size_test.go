package house

import (
	"cmp"
	"testing"
)

// The largest that a room may be: see CONTRIBUTING.md.
const (
	maxFiles   = 20
	maxFloors  = 8
	maxMethods = 30
)

// larger lists the packages that may be larger, up to what stands here and no more,
// and why. What is 0 is as everywhere. A row goes when its package has become small.
var larger = map[string]struct {
	files, floors, methods int
	why                    string
}{}

// TestRoomsAreSmall holds that no package has more files, floors or methods of one
// type than somebody new to it can keep in mind.
func TestRoomsAreSmall(t *testing.T) {
	shapes, err := Measure("../..")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, s := range shapes {
		if hasAnyPrefix(s.Path, testsOnly) {
			continue
		}
		seen[s.Path] = true
		row := larger[s.Path]
		for _, f := range []struct {
			what               string
			is, may, exception int
		}{
			{"files", s.Files, maxFiles, row.files},
			{"floors", s.Floors, maxFloors, row.floors},
			{"methods on " + s.Type, s.Methods, maxMethods, row.methods},
		} {
			t.Logf("%s: %d %s", s.Path, f.is, f.what)
			if most := cmp.Or(f.exception, f.may); f.is > most {
				t.Errorf("%s has %d %s, may have %d: give what belongs together a room of its own", s.Path, f.is, f.what, most)
			}
			if f.exception != 0 && f.is <= f.may {
				t.Errorf("%s has %d %s: its exception can go", s.Path, f.is, f.what)
			}
		}
	}
	for path := range larger {
		if !seen[path] {
			t.Errorf("there is no package %s, which has an exception", path)
		}
	}
}
