package neighbour

import "testing"

func FuzzParse(f *testing.F) {
	f.Add([]byte("\x02\x00\x00\x00\x07\x00\x00\x00\x80\x00\x00\x00\x08\x00\x01\x00\xc0\x00\x02\x07\x05\x00\x0c\x00\x42\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if e, ok := parse(body, 7); ok && !e.Addr.IsValid() {
			t.Errorf("an entry without an address: %+v", e)
		}
	})
}
