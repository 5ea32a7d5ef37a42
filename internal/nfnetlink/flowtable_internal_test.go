package nfnetlink

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFlowtable reads what it writes.
func TestFlowtable(t *testing.T) {
	m := Place{Family: unix.NFPROTO_INET, Table: "t"}.NewFlowtable(Flowtable{Name: "f", Devices: []string{"eno1", "virbr0"}})
	if got := readFlowtable(m[unix.NLMSG_HDRLEN:]); got.Name != "f" || !slices.Equal(got.Devices, []string{"eno1", "virbr0"}) {
		t.Errorf("it is read %+v", got)
	}
}

// FuzzReadFlowtable reads what the kernel might say.
func FuzzReadFlowtable(f *testing.F) {
	f.Add(Place{Family: unix.NFPROTO_INET, Table: "t"}.NewFlowtable(Flowtable{Name: "f", Devices: []string{"eno1"}})[unix.NLMSG_HDRLEN:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if got := readFlowtable(body); len(got.Devices) > len(body) {
			t.Errorf("of %d bytes %d devices are read", len(body), len(got.Devices))
		}
	})
}
