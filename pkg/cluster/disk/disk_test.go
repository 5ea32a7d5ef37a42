package disk

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/vnetd/vnetd/pkg/cluster"
)

// TestFileIsWhatWasSaved holds that a file has what cluster.Saved has after the same
// savings, also once it is opened again.
func TestFileIsWhatWasSaved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	const seed = 1
	rng := rand.New(rand.NewPCG(seed, 1))
	var want cluster.Saved
	for round := range 10 {
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			s := cluster.Saving{All: rng.IntN(8) == 0, Store: 1<<63 | rng.Uint64(), Revision: rng.Int64()}
			for range rng.IntN(6) {
				s.Events = append(s.Events, cluster.Event{
					KV:      cluster.KV{Key: fmt.Sprintf("/k%d", rng.IntN(8)), Value: []byte{byte(rng.Uint32())}, Create: rng.Int64(), Mod: rng.Int64()},
					Deleted: rng.IntN(3) == 0,
				})
			}
			if rng.IntN(2) == 0 {
				s.Doubt = []cluster.Op{{Key: "/a", Value: []byte("x"), Lease: 3}, {Key: "/b"}, {Key: "/c", Prefix: true}}
			}
			if err := f.Save(s); err != nil {
				t.Fatal(err)
			}
			want.Take(s)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if f, err = Open(path); err != nil {
			t.Fatal(err)
		}
		got, err := f.Load()
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d, round %d: the file has\n%+v, %v, want\n%+v", seed, round, got, err, want)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFileThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lab.db")
	if err := os.WriteFile(path, []byte("this is no database, and long enough to be looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil {
		t.Error("a file that is none passes")
	}
}
