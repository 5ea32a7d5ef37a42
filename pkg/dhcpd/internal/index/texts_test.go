package index_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd/internal/index"
)

// Texts and their parts are what they were, over many boards, and one that is kept again stays
// where it is.
func TestTextsStay(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var texts index.Texts
	want := make(map[index.Place][]string)
	for range 5000 {
		parts := make([]string, random.IntN(4))
		var text []byte
		for i := range parts {
			parts[i] = string(bytes.Repeat([]byte{byte(random.IntN(256))}, random.IntN(300)))
			text = index.AppendPart(text, parts[i])
		}
		at := texts.Keep(text, 0)
		if again := texts.Keep(text, at); again != at {
			t.Fatalf("%q is at %d, and then at %d", text, at, again)
		}
		if at == 0 != (len(parts) == 0) || texts.At(at) != string(text) {
			t.Fatalf("at %d is %q, want %q", at, texts.At(at), text)
		}
		want[at] = parts
	}
	for at, parts := range want {
		for i := range 4 {
			part := ""
			if i < len(parts) {
				part = parts[i]
			}
			if got := index.Part(texts.At(at), i); got != part {
				t.Fatalf("part %d at %d is %q, want %q", i, at, got, part)
			}
		}
	}
}
