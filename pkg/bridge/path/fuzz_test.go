package path

import "testing"

// FuzzParse reads answers of any form: a parser that runs off their end would take the
// daemon down.
func FuzzParse(f *testing.F) {
	f.Add([]byte{2, 32, 32, 0, 254, 3, 0, 1, 0, 0, 0, 0, 8, 0, 4, 0, 3, 0, 0, 0})
	f.Add([]byte{2, 0, 24, 0, 52, 0, 0, 1, 0, 0, 0, 0, 8, 0, 2, 0, 192, 0, 2, 0, 8, 0, 6, 0, 52, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, body []byte) {
		_, _ = parseWay(body)
		_, _ = parseVRF(body)
		if r, ok := parseRule(body); ok {
			_ = r.String()
			_, _ = Chosen([]Rule{r}, Packet{}, "", r.Table)
		}
	})
}
