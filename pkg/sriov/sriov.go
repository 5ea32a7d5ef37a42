// Package sriov finds the virtual functions of network cards (SR-IOV) in sysfs. It
// changes nothing: what makes functions is the card's driver, upon sriov_numvfs.
package sriov

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Sys is where sysfs is.
const Sys = "/sys"

// Address is that of a PCI device, as lspci -D has it.
type Address struct{ Domain, Bus, Slot, Function int }

// String is the address as sysfs has it: 0000:01:10.0.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Slot, a.Function)
}

// ParseAddress reads what String writes. A domain may have more than four digits, as those
// of some hosts' bridges have.
func ParseAddress(text string) (Address, error) {
	var fields [4]int
	rest, separators := text, []string{":", ":", ".", ""}
	limits := []uint64{1<<32 - 1, 0xff, 0x1f, 7}
	for i, separator := range separators {
		word := rest
		if separator != "" {
			var ok bool
			if word, rest, ok = strings.Cut(rest, separator); !ok {
				return Address{}, fmt.Errorf("%.80q is no PCI address, want one like 0000:01:10.0", text)
			}
		}
		n, err := strconv.ParseUint(word, 16, 32)
		if err != nil || n > limits[i] {
			return Address{}, fmt.Errorf("%.80q is no PCI address, want one like 0000:01:10.0", text)
		}
		fields[i] = int(n)
	}
	return Address{fields[0], fields[1], fields[2], fields[3]}, nil
}

// Function is a virtual function.
type Function struct {
	Address Address
	// Net is the interface that the function is in this network namespace; empty while
	// another driver has it, such as vfio-pci while it is passed through.
	Net string
}

// ErrNotPhysical says that an interface is not that of a card with virtual functions.
var ErrNotPhysical = errors.New("no physical function of SR-IOV")

// Functions lists the virtual functions of the card whose interface is dev, in their order,
// as the sysfs at sys has them. None is no error. The error is fs.ErrNotExist where there
// is no such interface, ErrNotPhysical where it is none of a card that can have functions.
func Functions(sys, dev string) ([]Function, error) {
	at := filepath.Join(sys, "class/net", dev)
	if _, err := os.Stat(at); err != nil {
		return nil, fmt.Errorf("looking for virtual functions of %q: %w", dev, err)
	}
	device := filepath.Join(at, "device")
	if _, err := os.Stat(filepath.Join(device, "sriov_totalvfs")); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for virtual functions of %q: %w", dev, ErrNotPhysical)
	}
	port := portID(at)
	var all []Function
	for i := 0; ; i++ {
		link := filepath.Join(device, "virtfn"+strconv.Itoa(i))
		target, err := os.Readlink(link)
		if errors.Is(err, fs.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("looking for virtual functions of %q: %w", dev, err)
		}
		address, err := ParseAddress(filepath.Base(target))
		if err != nil {
			return nil, fmt.Errorf("looking for virtual functions of %q: %w", dev, err)
		}
		all = append(all, Function{address, interfaceOf(link, port)})
	}
}

// IsFunction reports whether the device with that address is there and a virtual function.
func IsFunction(sys string, a Address) bool {
	_, err := os.Stat(filepath.Join(sys, "bus/pci/devices", a.String(), "physfn"))
	return err == nil
}

// interfaceOf is the interface of a device, empty for none. Where it has several, it is the
// one on the port of the card with that identity, or else the first.
func interfaceOf(device string, port []byte) string {
	entries, err := os.ReadDir(filepath.Join(device, "net"))
	if err != nil || len(entries) == 0 {
		return ""
	}
	for _, e := range entries {
		if len(port) > 0 && bytes.Equal(portID(filepath.Join(device, "net", e.Name())), port) {
			return e.Name()
		}
	}
	return entries[0].Name()
}

// portID is the identity of the card's port that an interface in sysfs is on; nil where its
// driver does not tell.
func portID(at string) []byte {
	id, err := os.ReadFile(filepath.Join(at, "phys_port_id"))
	if err != nil {
		return nil
	}
	return bytes.TrimSpace(id)
}
