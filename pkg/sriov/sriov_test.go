package sriov_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/sriov"
)

// card makes a sysfs as the kernel has it of a card ens1 with three functions: the first
// has an interface, the second two of which the latter is on ens1's port, and the third
// is passed through.
func card(t *testing.T) string {
	t.Helper()
	sys := t.TempDir()
	pci := filepath.Join(sys, "devices/pci0000:00/0000:00:03.0")
	for path, text := range map[string]string{
		"0000:01:00.0/sriov_totalvfs": "63\n", "0000:01:00.0/net/ens1/phys_port_id": "b1\n",
		"0000:01:10.0/net/ens1v0/mtu":          "1500\n",
		"0000:01:10.2/net/aaa/phys_port_id":    "b2\n",
		"0000:01:10.2/net/ens1v1/phys_port_id": "b1\n",
		"0000:01:10.4/vendor":                  "0x8086\n",
	} {
		at := filepath.Join(pci, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.WriteFile(at, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	for i, function := range []string{"0000:01:10.0", "0000:01:10.2", "0000:01:10.4"} {
		link(t, "../"+function, filepath.Join(pci, "0000:01:00.0", fmt.Sprint("virtfn", i)))
		link(t, "../0000:01:00.0", filepath.Join(pci, function, "physfn"))
		link(t, filepath.Join(pci, function), filepath.Join(sys, "bus/pci/devices", function))
	}
	link(t, filepath.Join(pci, "0000:01:00.0"), filepath.Join(sys, "bus/pci/devices/0000:01:00.0"))
	link(t, filepath.Join(pci, "0000:01:00.0/net/ens1"), filepath.Join(sys, "class/net/ens1"))
	link(t, "../..", filepath.Join(pci, "0000:01:00.0/net/ens1/device"))
	if err := os.MkdirAll(filepath.Join(sys, "devices/virtual/net/lo"), 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, filepath.Join(sys, "devices/virtual/net/lo"), filepath.Join(sys, "class/net/lo"))
	return sys
}

func link(t *testing.T, target, at string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o755), os.Symlink(target, at)); err != nil {
		t.Fatal(err)
	}
}

func TestFunctions(t *testing.T) {
	sys := card(t)
	got, err := sriov.Functions(sys, "ens1")
	want := []sriov.Function{
		{Address: sriov.Address{Bus: 1, Slot: 16}, Net: "ens1v0"},
		{Address: sriov.Address{Bus: 1, Slot: 16, Function: 2}, Net: "ens1v1"},
		{Address: sriov.Address{Bus: 1, Slot: 16, Function: 4}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	for dev, want := range map[string]error{"lo": sriov.ErrNotPhysical, "ens9": fs.ErrNotExist} {
		if got, err := sriov.Functions(sys, dev); !errors.Is(err, want) {
			t.Errorf("%s: %v, %v, want %v", dev, got, err, want)
		}
	}
	for address, want := range map[string]bool{"0000:01:10.2": true, "0000:01:00.0": false, "0000:02:10.2": false} {
		a, err := sriov.ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := sriov.IsFunction(sys, a); got != want {
			t.Errorf("%s is a virtual function: %v, want %v", address, got, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, text := range []string{"0000:01:10.0", "10000:e1:1f.7", "0000:01:20.0", "0000:01:10", ":::.", "0000:01:10.8"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := sriov.ParseAddress(text)
		if err != nil {
			return
		}
		if again, err := sriov.ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q is %v, and that %v, %v", text, a, again, err)
		}
	})
}
