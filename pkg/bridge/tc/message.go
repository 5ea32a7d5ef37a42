package tc

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// handle is the major number of our root qdisc: what has it is ours.
const handle = 0x766e

// Where the qdisc of what leaves a device is, and that of what comes in (TC_H_ROOT and
// TC_H_INGRESS of linux/pkt_sched.h).
const (
	atRoot    = 0xffffffff
	atIngress = 0xfffffff1
)

// classid is a class of our root qdisc.
func classid(minor uint16) uint32 { return handle<<16 | uint32(minor) }

// object is what a message of tc is about: struct tcmsg of linux/rtnetlink.h.
type object struct {
	index          int
	handle, parent uint32
	info           uint32
}

// tcmsgSize is the size of struct tcmsg.
const tcmsgSize = 20

func (o object) bytes() []byte {
	b := make([]byte, 4, tcmsgSize)
	b = binary.NativeEndian.AppendUint32(b, uint32(o.index))
	b = binary.NativeEndian.AppendUint32(b, o.handle)
	b = binary.NativeEndian.AppendUint32(b, o.parent)
	return binary.NativeEndian.AppendUint32(b, o.info)
}

// parseObject reads the head of an answer, and returns what stands behind it.
func parseObject(body []byte) (o object, attributes []byte, err error) {
	if len(body) < tcmsgSize {
		return object{}, nil, errors.New("short answer about traffic control")
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(body[at:]) }
	return object{int(word(4)), word(8), word(12), word(16)}, body[tcmsgSize:], nil
}

// message is one about an object of that kind.
func message(kind, flags uint16, o object, name string, options []byte) []byte {
	var attributes []byte
	if name != "" {
		attributes = netlink.AppendAttribute(attributes, nl.TCA_KIND, append([]byte(name), 0))
	}
	if options != nil {
		attributes = netlink.AppendAttribute(attributes, nl.TCA_OPTIONS, options)
	}
	return netlink.NewMessage(kind, unix.NLM_F_REQUEST|flags, o.bytes(), attributes)
}

const (
	create = unix.NLM_F_CREATE
	anew   = unix.NLM_F_CREATE | unix.NLM_F_EXCL
)

// newRoot makes our root qdisc, without a class yet: what no filter sorts goes to a class.
func newRoot(index int, sorted uint16) []byte {
	glob := binary.NativeEndian.AppendUint32(nil, 3)              // struct tc_htb_glob: version,
	glob = binary.NativeEndian.AppendUint32(glob, 10)             // rate2quantum, not used,
	glob = binary.NativeEndian.AppendUint32(glob, uint32(sorted)) // defcls,
	glob = append(glob, make([]byte, 8)...)                       // debug, direct_pkts
	options := netlink.AppendAttribute(nil, nl.TCA_HTB_INIT, glob)
	return message(unix.RTM_NEWQDISC, anew, object{index, handle << 16, atRoot, 0}, "htb", options)
}

// deleteQdisc deletes the qdisc that is there, whosever it is.
func deleteQdisc(index int, where uint32) []byte {
	return message(unix.RTM_DELQDISC, 0, object{index: index, parent: where}, "", nil)
}

// deleteLibvirts deletes the root qdisc if it is one such as libvirt makes.
func deleteLibvirts(index int) []byte {
	const libvirts = 1
	return message(unix.RTM_DELQDISC, 0, object{index, libvirts << 16, atRoot, 0}, "htb", nil)
}

// newClass makes or changes a class.
func newClass(index int, minor uint16, c class) []byte {
	parms := append(rateSpec(c.rate), rateSpec(c.ceil)...) // struct tc_htb_opt
	for _, word := range []uint32{c.buffer, c.cbuff, c.quantum(), 0, 0} {
		parms = binary.NativeEndian.AppendUint32(parms, word)
	}
	options := netlink.AppendAttribute(nil, nl.TCA_HTB_PARMS, parms)
	options = netlink.AppendAttribute(options, nl.TCA_HTB_RATE64, binary.NativeEndian.AppendUint64(nil, c.rate))
	options = netlink.AppendAttribute(options, nl.TCA_HTB_CEIL64, binary.NativeEndian.AppendUint64(nil, c.ceil))
	return message(unix.RTM_NEWTCLASS, create, object{index, classid(minor), classid(c.parent), 0}, "htb", options)
}

// rateSpec is a struct tc_ratespec of Ethernet, with which the kernel needs no table.
func rateSpec(rate uint64) []byte {
	const ethernet = 1 // TC_LINKLAYER_ETHERNET
	b := []byte{0, ethernet, 0, 0, 0, 0, 0, 0}
	return binary.NativeEndian.AppendUint32(b, uint32(min(rate, math.MaxUint32)))
}

func deleteClass(index int, minor uint16) []byte {
	return message(unix.RTM_DELTCLASS, 0, object{index: index, handle: classid(minor)}, "", nil)
}

// dumpClasses asks for the classes of a device.
func dumpClasses(index int) []byte {
	return message(unix.RTM_GETTCLASS, unix.NLM_F_DUMP, object{index: index}, "", nil)
}

// parseClass reads a class; ok is false where it is none of ours.
func parseClass(body []byte) (minor uint16, c class, ok bool) {
	o, attributes, err := parseObject(body)
	if err != nil || o.handle>>16 != handle {
		return 0, class{}, false
	}
	if o.parent>>16 == handle {
		c.parent = uint16(o.parent)
	}
	minor = uint16(o.handle)
	c.queue = o.info == queueHandle(minor)
	for kind, value := range netlink.Attributes(attributes) {
		if kind == nl.TCA_OPTIONS {
			c.parseOptions(value)
		}
	}
	return minor, c, true
}

// parseOptions reads what newClass says.
func (c *class) parseOptions(options []byte) {
	for kind, value := range netlink.Attributes(options) {
		switch {
		case kind == nl.TCA_HTB_PARMS && len(value) >= 32:
			c.rate, c.ceil = max(c.rate, uint64(binary.NativeEndian.Uint32(value[8:]))), max(c.ceil, uint64(binary.NativeEndian.Uint32(value[20:])))
			c.buffer, c.cbuff = binary.NativeEndian.Uint32(value[24:]), binary.NativeEndian.Uint32(value[28:])
		case kind == nl.TCA_HTB_RATE64 && len(value) >= 8:
			c.rate = binary.NativeEndian.Uint64(value)
		case kind == nl.TCA_HTB_CEIL64 && len(value) >= 8:
			c.ceil = binary.NativeEndian.Uint64(value)
		}
	}
}

// queueHandle is the handle of the queue in a class, by which it is known.
func queueHandle(minor uint16) uint32 { return uint32(minor) << 16 }

// matchPriority is that of the filter which leads to a class, each its own: a filter is
// known by it.
func matchPriority(minor uint16) uint32 { return uint32(minor) + 0x4000 }

// filter is the filter that leads to a class.
func filter(index int, minor uint16) object {
	const allProtocols = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network order
	return object{index, 0, handle << 16, matchPriority(minor)<<16 | allProtocols}
}

// The six bytes of the destination stand 14 bytes ahead of the network header, by which
// u32 reads. It reads four at a time.
const (
	firstFour = -14
	lastFour  = -12
)

// newFilter has what goes to a guest go to a class.
func newFilter(index int, minor uint16, mac string) []byte {
	const terminal = 1                                         // TC_U32_TERMINAL
	sel := append([]byte{terminal, 0, 2}, make([]byte, 13)...) // struct tc_u32_sel, of two keys
	sel = append(sel, key(firstFour, mac[:4])...)
	sel = append(sel, key(lastFour, mac[2:])...)
	options := netlink.AppendAttribute(nil, nl.TCA_U32_CLASSID, netlink.Uint32(classid(minor)))
	options = netlink.AppendAttribute(options, nl.TCA_U32_SEL, sel)
	return message(unix.RTM_NEWTFILTER, anew, filter(index, minor), "u32", options)
}

// key is a struct tc_u32_key: four bytes at an offset.
func key(offset int32, value string) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff}
	b = append(b, value...)
	b = binary.NativeEndian.AppendUint32(b, uint32(offset))
	return append(b, 0, 0, 0, 0)
}

func deleteFilter(index int, minor uint16) []byte {
	return message(unix.RTM_DELTFILTER, 0, filter(index, minor), "", nil)
}

// dumpFilters asks for the filters of our root qdisc.
func dumpFilters(index int) []byte {
	return message(unix.RTM_GETTFILTER, unix.NLM_F_DUMP, object{index: index, parent: handle << 16}, "", nil)
}

// parseFilter reads which address leads to which class; ok is false for the tables that
// filters stand in, and for filters of others.
func parseFilter(body []byte) (minor uint16, mac string, ok bool) {
	o, attributes, err := parseObject(body)
	if err != nil {
		return 0, "", false
	}
	for kind, options := range netlink.Attributes(attributes) {
		if kind != nl.TCA_OPTIONS {
			continue
		}
		for kind, value := range netlink.Attributes(options) {
			switch {
			case kind == nl.TCA_U32_CLASSID && len(value) >= 4:
				minor = uint16(binary.NativeEndian.Uint32(value))
			case kind == nl.TCA_U32_SEL && len(value) >= 48 && value[2] == 2:
				mac = string(value[20:24]) + string(value[38:40])
			}
		}
	}
	return minor, mac, mac != "" && minor >= MinFloorClass && o.info>>16 == matchPriority(minor)
}
