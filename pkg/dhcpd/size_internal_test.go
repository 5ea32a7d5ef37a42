package dhcpd

import (
	"testing"
	"unsafe"
)

// A binding is kept of every address that somebody has or had. The size is one in which the
// runtime gives memory, so that a field more costs 16 bytes of each.
func TestBindingIsSmall(t *testing.T) {
	if size, most := unsafe.Sizeof(Binding{}), uintptr(176); size > most {
		t.Errorf("a binding has %d bytes, want at most %d", size, most)
	}
}
