package tap

import "testing"

// FuzzLockedFile reads what /proc/locks may have.
func FuzzLockedFile(f *testing.F) {
	f.Add("8: OFDLCK ADVISORY  READ -1 00:06:118 0 EOF\n")
	f.Add("1: FLOCK  ADVISORY  WRITE 7187 00:29:1296 0 EOF\n")
	f.Add("1: -> POSIX  ADVISORY  WRITE 7187 00:29:1296 0 EOF\n")
	f.Fuzz(func(t *testing.T, line string) {
		if file := lockedFile(line); len(file) > len(line) {
			t.Errorf("%q has the file %q", line, file)
		}
	})
}

func TestLockedFile(t *testing.T) {
	for line, want := range map[string]string{
		"8: OFDLCK ADVISORY  READ -1 00:06:118 0 EOF": "00:06:118",
		"1: FLOCK  ADVISORY  READ -1 00:06:118 0 EOF": "",
		"": "",
	} {
		if got := lockedFile(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// FuzzParseDev reads what sysfs may have.
func FuzzParseDev(f *testing.F) {
	f.Add("246:1")
	f.Add("246")
	f.Add("-1:99999999999")
	f.Fuzz(func(t *testing.T, text string) { _, _ = parseDev(text) })
}
