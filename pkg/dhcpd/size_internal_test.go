package dhcpd

import (
	"reflect"
	"testing"
)

// A binding is kept of every address that somebody has or had. The collector must not have to look
// at any of them, and a field more costs its bytes of each.
func TestBindingIsSmall(t *testing.T) {
	of := reflect.TypeFor[binding]()
	if size, most := of.Size(), uintptr(112); size > most {
		t.Errorf("a binding has %d bytes, want at most %d", size, most)
	}
	for _, typ := range []reflect.Type{of, reflect.TypeFor[unsettled]()} {
		if hasPointers(typ) {
			t.Errorf("there are pointers in %v", typ)
		}
	}
}

// hasPointers reports whether a value of a type may have pointers.
func hasPointers(typ reflect.Type) bool {
	switch typ.Kind() {
	case reflect.Struct:
		for field := range typ.Fields() {
			if hasPointers(field.Type) {
				return true
			}
		}
		return false
	case reflect.Array:
		return hasPointers(typ.Elem())
	default:
		return typ.Kind() == reflect.String || typ.Kind() > reflect.Complex128
	}
}
