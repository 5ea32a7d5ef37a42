package tap

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What a macvtap is, by the words of libvirt: IFLA_MACVLAN_MODE of linux/if_link.h.
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthrough": 8}

// passthrough is the mode that has the parent for itself, its address included.
const passthrough = "passthrough"

// Why a macvtap can't be made: ErrParentBusy where its parent is a port of a bridge, a bond
// or the like, or has a macvtap for which it is alone; ErrNoMacvtap where the kernel has
// none.
var (
	ErrParentBusy = errors.New("the interface has another use")
	ErrNoMacvtap  = errors.New("the kernel has no macvtap (is the module macvtap there?)")
	// ErrAddressTaken and ErrParentDown are why a device can't be set up.
	ErrAddressTaken = errors.New("another macvlan on the interface has the address")
	ErrParentDown   = errors.New("the interface is down")
)

// MacvtapConfig is what a macvtap device shall be: a card of a guest on an interface of the
// host, whose address it receives by. What it sends leaves by that interface, or goes to
// others on it as Mode says; the host itself is not among them.
type MacvtapConfig struct {
	Parent int    // ifindex of the interface of the host
	Mode   string // bridge, private, vepa or passthrough
	// Name, Queues and VnetHdr are those of Config.
	Name    string
	Queues  int
	VnetHdr bool
	MAC     net.HardwareAddr // of the guest's card; with passthrough the parent gets it, too
	Alias   string
	Nodes   string // where device nodes are made that /dev has not, see Node
}

// Macvtap is a macvtap device, which stays until it is deleted.
type Macvtap struct {
	Device
	Node string // the device node by which it was opened
	// Lock is what Held knows those by who have the device open.
	Lock string
}

// CreateMacvtap makes a macvtap device with the given attributes, opened; it is not up. The
// error is ErrExists for a taken name, ErrParentBusy, ErrNoMacvtap, or ErrGone where there
// is no such parent. After an error nothing is left.
func CreateMacvtap(cfg MacvtapConfig) (*Macvtap, error) {
	if cfg.Name == "" {
		cfg.Name = defaultTemplate
	}
	m := &Macvtap{}
	err := m.create(&cfg)
	if err == nil {
		err = m.open(&cfg)
	}
	if err == nil {
		return m, nil
	}
	if m.Index != 0 {
		err = errors.Join(err, m.Close(), m.Delete(cfg.Nodes))
	}
	return nil, fmt.Errorf("creating macvtap device %q: %w", cfg.Name, err)
}

// create makes the link. It has a name of its own first: the kernel does not tell which one
// it made of a template.
func (m *Macvtap) create(cfg *MacvtapConfig) error {
	mode, ok := macvlanModes[cfg.Mode]
	if !ok {
		return fmt.Errorf("mode %q is none of macvtap", cfg.Mode)
	}
	name := temporaryName()
	attrs := []*nl.RtAttr{macvlanInfo("macvtap", mode)}
	if cfg.Mode != passthrough && cfg.MAC != nil {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC))
	}
	if err := newLink(name, cfg.Parent, attrs...); err != nil {
		return err
	}
	var err error
	if m.Index, err = indexOf(name); err != nil {
		return errors.Join(err, deleteNamed(name))
	}
	attrs = []*nl.RtAttr{nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(cfg.Name)), nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(cfg.Alias))}
	if cfg.Mode == passthrough && cfg.MAC != nil {
		attrs = append(attrs, nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC))
	}
	switch err := changeLink(m.Index, 0, attrs...); {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", ErrExists, err)
	case err != nil:
		return fmt.Errorf("naming it: %w", err)
	}
	m.Name, err = nameOf(m.Index)
	return err
}

// newLink makes a link on a parent.
func newLink(name string, parent int, attrs ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent))))
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	switch {
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: %w", ErrExists, err)
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: %w", ErrParentBusy, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", ErrNoMacvtap, err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("making the device takes CAP_NET_ADMIN: %w", err)
	}
	return err
}

// macvlanInfo is IFLA_LINKINFO of a link of that kind.
func macvlanInfo(kind string, mode uint32) *nl.RtAttr {
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kind))
	info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(mode))
	return info
}

// changeLink changes attributes of a link, and with flags those of the IFF_ flags.
func changeLink(index int, flags uint32, attrs ...*nl.RtAttr) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = int32(index), flags, flags
	req.AddData(msg)
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// Delete deletes the device, and its node where that was made in dir.
func (m *Macvtap) Delete(dir string) error {
	return errors.Join(deleteLink(m.Index), RemoveNode(m.Node, dir))
}

// SetUp sets the device with that index up. The host's own IPv6 keeps off it: its address
// there would be the guest's. The error is ErrAddressTaken, ErrParentDown or ErrGone.
func SetUp(index int) error {
	name, err := nameOf(index)
	if err != nil {
		return err
	}
	if err := withoutIPv6(name); err != nil {
		return err
	}
	switch err := changeLink(index, unix.IFF_UP); {
	case errors.Is(err, unix.ENODEV):
		return ErrGone
	case errors.Is(err, unix.EADDRINUSE), errors.Is(err, unix.EBUSY):
		return fmt.Errorf("setting %q up: %w: %w", name, ErrAddressTaken, err)
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("setting %q up: %w: %w", name, ErrParentDown, err)
	case err != nil:
		return fmt.Errorf("setting %q up: %w", name, err)
	}
	return nil
}

// SetDown sets the device with that index down; one that is gone is success.
func SetDown(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Change = int32(index), unix.IFF_UP
	req.AddData(msg)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("setting device %d down: %w", index, err)
	}
	return nil
}

// SetAlias has the device with that index say something of itself.
func SetAlias(index int, text string) error {
	if err := changeLink(index, 0, nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(text))); err != nil {
		return fmt.Errorf("setting the alias of device %d: %w", index, err)
	}
	return nil
}

// ReopenMacvtap opens the queues of the device that cfg made, by its name and the index that
// it had. One that is not there any more gives ErrGone. Whether somebody has it open, Held
// knows.
func ReopenMacvtap(cfg MacvtapConfig, index int) (*Macvtap, error) {
	m := &Macvtap{Device: Device{Name: cfg.Name, Index: index}}
	if now, err := indexOf(cfg.Name); err != nil || now != index {
		return nil, fmt.Errorf("opening macvtap device %q: %w", cfg.Name, ErrGone)
	}
	if err := m.open(&cfg); err != nil {
		return nil, fmt.Errorf("opening macvtap device %q: %w", cfg.Name, errors.Join(err, m.Close()))
	}
	return m, nil
}

// open opens the device's queues.
func (m *Macvtap) open(cfg *MacvtapConfig) error {
	queues := max(cfg.Queues, 1)
	if queues > maxQueues {
		return fmt.Errorf("%d queues, at most %d are possible", queues, maxQueues)
	}
	n, err := findNode(m.Name, cfg.Nodes)
	if err != nil {
		return err
	}
	m.Node = n.path
	ifr, err := unix.NewIfreq(m.Name)
	if err != nil {
		return err
	}
	ifr.SetUint16((&Config{Queues: queues, VnetHdr: cfg.VnetHdr}).flags())
	for range queues {
		fd, err := n.open()
		if err != nil {
			return err
		}
		if err := errors.Join(unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr), hold(fd)); err != nil {
			return errors.Join(fmt.Errorf("opening a queue: %w", err), unix.Close(fd))
		}
		if m.Lock == "" {
			m.Lock, err = lockOf(fd)
		}
		m.Files = append(m.Files, os.NewFile(uintptr(fd), n.path))
		if err != nil {
			return err
		}
	}
	return nil
}

// temporaryName is a name that no link has.
func temporaryName() string {
	var b [5]byte
	_, _ = rand.Read(b[:])
	return "vnew" + hex.EncodeToString(b[:])
}

// nameOf is the name of the link with that index. The error is ErrGone for none.
func nameOf(index int) (string, error) {
	ifr, err := unix.NewIfreq("")
	if err != nil {
		return "", err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("looking up the name of device %d: %w", index, err)
	}
	ifr.SetUint32(uint32(index))
	err = unix.IoctlIfreq(fd, unix.SIOCGIFNAME, ifr)
	if errors.Is(err, unix.ENODEV) {
		err = ErrGone
	}
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return "", fmt.Errorf("looking up the name of device %d: %w", index, err)
	}
	return ifr.Name(), nil
}

// deleteNamed deletes the link of that name.
func deleteNamed(name string) error {
	index, err := indexOf(name)
	if err != nil {
		return err
	}
	return deleteLink(index)
}

// deleteLink deletes the link with that index; one that is gone is success.
func deleteLink(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting device %d: %w", index, err)
	}
	return nil
}
