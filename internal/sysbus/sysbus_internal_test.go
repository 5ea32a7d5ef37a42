package sysbus

import (
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"
)

func TestPlaceFDs(t *testing.T) {
	type indices = []dbus.UnixFDIndex
	type placed = []dbus.UnixFD
	tests := map[string]struct {
		body, want []any
		left       []int
	}{
		"all":          {[]any{"x", indices{1, 0}}, []any{"x", placed{11, 10}}, nil},
		"one":          {[]any{indices{1}}, []any{placed{11}}, []int{10}},
		"none":         {[]any{"x"}, []any{"x"}, []int{10, 11}},
		"out of range": {[]any{indices{0, 2}}, []any{indices{0, 2}}, []int{10, 11}},
		"highest":      {[]any{indices{1<<32 - 1}}, []any{indices{1<<32 - 1}}, []int{10, 11}},
		"twice":        {[]any{indices{0, 0}}, []any{indices{0, 0}}, []int{10, 11}},
		"two arrays":   {[]any{indices{0}, indices{1}}, []any{placed{10}, placed{11}}, nil},
		"shared":       {[]any{indices{0}, indices{0}}, []any{placed{10}, indices{0}}, []int{11}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			left := placeFDs(test.body, []int{10, 11})
			if diff := cmp.Diff(test.want, test.body); diff != "" {
				t.Errorf("body (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(test.left, left); diff != "" {
				t.Errorf("left (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzSocketName(f *testing.F) {
	for _, address := range []string{
		"unix:path=/run/dbus/system_bus_socket", "unix:path=/tmp/a%20b,guid=0123", "unix:abstract=/tmp/x",
		"tcp:host=localhost,port=1", "unix:", "unix:path=%zz", "unix:guid=1,path=/x", "unix:path",
	} {
		f.Add(address)
	}
	f.Fuzz(func(t *testing.T, address string) {
		name, err := socketName(address)
		if (name == "") != (err != nil) {
			t.Errorf("name %q with error %v", name, err)
		}
	})
}

func TestSocketName(t *testing.T) {
	for address, want := range map[string]string{
		"unix:path=/run/dbus/system_bus_socket": "/run/dbus/system_bus_socket",
		"unix:guid=01,path=/tmp/a%20b":          "/tmp/a b",
		"unix:abstract=bus,guid=0123":           "@bus",
		"unix:path=":                            "",
		"unix:path=%zz":                         "",
		"tcp:host=localhost":                    "",
	} {
		if got, err := socketName(address); got != want {
			t.Errorf("%s: %q, %v, want %q", address, got, err, want)
		}
	}
}
