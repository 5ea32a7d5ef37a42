package wire_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/pkg/dnsd/wire"
)

// TestNames packs random names, label by label, and looks for their keys: those of names
// that are their own keys, which are not packed for that, and of others.
func TestNames(t *testing.T) {
	seed := rand.Uint64()
	t.Log("seed:", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const octets = "abz019-_AZ*\xc3"
	for range 2000 {
		labels := make([]string, random.IntN(5))
		var want []byte
		for i := range labels {
			label := make([]byte, 1+random.IntN(10))
			for j := range label {
				label[j] = octets[random.IntN(len(octets)-4*random.IntN(2))]
			}
			labels[i] = string(label)
			want = append(append(want, byte(len(label))), label...)
		}
		want = append(want, 0)
		for _, dot := range []string{"", "."} {
			name := strings.Join(labels, ".") + dot
			got := wire.AppendName([]byte("before"), name)
			if !bytes.Equal(got, append([]byte("before"), want...)) {
				t.Errorf("%q is packed as %q, want %q", name, got, want)
			}
			if key, want := wire.KeyOf(name), string(wire.AppendKey(nil, want)); key != want {
				t.Errorf("%q has the key %q, want %q", name, key, want)
			}
		}
	}
}
