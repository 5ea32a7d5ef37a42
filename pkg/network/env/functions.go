package env

import (
	"cmp"

	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
	"github.com/vnetd/vnetd/pkg/sriov"
)

// Functions lists the virtual functions of the card whose interface is dev. The errors are
// those of sriov.Functions.
func (e *Environment) Functions(dev string) ([]translate.Function, error) {
	found, err := sriov.Functions(cmp.Or(e.SysFS, sriov.Sys), dev)
	var all []translate.Function
	for _, f := range found {
		all = append(all, translate.Function{Address: netdef.PCIAddress(f.Address), Net: f.Net})
	}
	return all, err
}

// IsFunction reports whether the device with that address is there and a virtual function.
func (e *Environment) IsFunction(a netdef.PCIAddress) bool {
	return sriov.IsFunction(cmp.Or(e.SysFS, sriov.Sys), sriov.Address(a))
}
