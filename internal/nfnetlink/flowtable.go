package nfnetlink

import (
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Attributes and flags of linux/netfilter/nf_tables.h that golang.org/x/sys does not have.
const (
	flowtableName  = 2 // NFTA_FLOWTABLE_NAME
	flowtableHook  = 3 // NFTA_FLOWTABLE_HOOK
	flowtableFlags = 7 // NFTA_FLOWTABLE_FLAGS
	hookNumber     = 1 // NFTA_FLOWTABLE_HOOK_NUM
	hookPriority   = 2 // NFTA_FLOWTABLE_HOOK_PRIORITY
	hookDevices    = 3 // NFTA_FLOWTABLE_HOOK_DEVS
	deviceName     = 1 // NFTA_DEVICE_NAME

	flowtableHardware = 1 // NFT_FLOWTABLE_HW_OFFLOAD, Linux 5.5
	flowtableCounter  = 2 // NFT_FLOWTABLE_COUNTER, Linux 5.7
)

// Flowtable is a flowtable: connections that are in it go past the hooks of the families
// ip and ip6, from the ingress of one of its devices to their way out.
type Flowtable struct {
	Name     string
	Priority int32 // among the hooks at ingress
	Devices  []string
	Hardware bool // devices do it themselves; the kernel refuses what one of them can't
}

// NewFlowtable makes a flowtable, whose packets are counted in their connections, or adds
// the devices to one that is there (Linux 5.8).
func (p Place) NewFlowtable(f Flowtable) []byte {
	flags := uint32(flowtableCounter)
	if f.Hardware {
		flags |= flowtableHardware
	}
	const ingress = 0 // NF_NETDEV_INGRESS
	hook := AppendNumber(AppendNumber(nil, hookNumber, ingress), hookPriority, uint32(f.Priority))
	hook = append(hook, nest(hookDevices, devices(f.Devices))...)
	return p.message(unix.NFT_MSG_NEWFLOWTABLE, unix.NLM_F_CREATE, text(flowtableName, f.Name), nest(flowtableHook, hook), AppendNumber(nil, flowtableFlags, flags))
}

// Flowtables are those of a table, with what is known of them: the name and the devices.
func (s *Socket) Flowtables(p Place) (all []Flowtable, err error) {
	bodies, err := s.Dump(Message(Type(unix.NFT_MSG_GETFLOWTABLE), unix.NLM_F_DUMP, p.Family, 0, text(unix.NFTA_TABLE_NAME, p.Table)), Type(unix.NFT_MSG_NEWFLOWTABLE))
	if err != nil {
		return nil, err
	}
	for _, body := range bodies {
		all = append(all, readFlowtable(body))
	}
	return all, nil
}

// readFlowtable reads an NFT_MSG_NEWFLOWTABLE.
func readFlowtable(body []byte) (f Flowtable) {
	for kind, value := range Attributes(body) {
		switch {
		case kind == flowtableName:
			f.Name = unix.ByteSliceToString(value)
		case kind == flowtableHook:
			f.Devices = readDevices(value)
		}
	}
	return f
}

// readDevices are the names in an NFTA_FLOWTABLE_HOOK.
func readDevices(hook []byte) (names []string) {
	for kind, list := range netlink.Attributes(hook) {
		if kind != hookDevices {
			continue
		}
		for kind, name := range netlink.Attributes(list) {
			if kind == deviceName {
				names = append(names, unix.ByteSliceToString(name))
			}
		}
	}
	return names
}
