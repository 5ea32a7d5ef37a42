package house

import "testing"

// The largest that a room may be: see CONTRIBUTING.md.
const (
	maxFiles   = 20
	maxFloors  = 8
	maxMethods = 30
)

// TestRoomsAreSmall holds that no package has more files, floors or methods of one
// type than somebody new to it can keep in mind.
func TestRoomsAreSmall(t *testing.T) {
	shapes, err := Measure("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shapes {
		if hasAnyPrefix(s.Path, testsOnly) {
			continue
		}
		for _, f := range []struct {
			what    string
			is, may int
		}{
			{"files", s.Files, maxFiles},
			{"floors", s.Floors, maxFloors},
			{"methods on " + s.Type, s.Methods, maxMethods},
		} {
			t.Logf("%s: %d %s", s.Path, f.is, f.what)
			if f.is > f.may {
				t.Errorf("%s has %d %s, may have %d: give what belongs together a room of its own", s.Path, f.is, f.what, f.may)
			}
		}
	}
}
