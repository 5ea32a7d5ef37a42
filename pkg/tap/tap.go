package tap

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	cloneDevice = "/dev/net/tun"

	// defaultTemplate is libvirt's: the kernel puts the lowest free number
	// in place of %d.
	defaultTemplate = "vnet%d"

	// maxQueues is the kernel's limit (MAX_TAP_QUEUES of drivers/net/tun.c).
	maxQueues = 256
)

// ErrExists says that a link of that name exists already, ErrBusy that the
// device's queues are all in use, ErrGone that it was deleted.
var (
	ErrExists = errors.New("name is taken")
	ErrBusy   = errors.New("device is in use")
	ErrGone   = errors.New("device is gone")
)

// Config is what a TAP device shall be.
type Config struct {
	// Name is the device's name, at most 15 bytes, or a template such as
	// "vnet%d", for which the kernel picks the lowest free number. Empty
	// means "vnet%d".
	Name string
	// MAC is the address of the host's side, see HostMAC. Nil leaves a random
	// one.
	MAC net.HardwareAddr
	// MTU is the device's, 0 for the kernel's default, 1500.
	MTU int
	// Alias is what the device says of itself (ifalias), at most 255 bytes; empty for
	// nothing.
	Alias string
	// Queues is the number of queues, each with a file descriptor; 0 means
	// one. With more than one the device has the flag IFF_MULTI_QUEUE, which
	// whoever uses the descriptors must know.
	Queues int
	// VnetHdr puts a struct virtio_net_hdr before each frame, in the size that
	// the kernel begins with (10 bytes) and QEMU expects.
	VnetHdr bool
	// Owner is the uid whose processes may open the device by its name
	// (TUNSETOWNER), beside those with CAP_NET_ADMIN. A device without owner, which
	// this package never makes, is open to everybody.
	Owner uint32
}

// Device is a TAP device that lives as long as a copy of one of its file
// descriptors is open in some process, unless Persist was called.
type Device struct {
	Name  string
	Index int
	// Files are the descriptors, one per queue: close-on-exec, non-blocking.
	Files []*os.File
}

// Create makes a TAP device with the given attributes; it is not up. A taken
// name gives ErrExists. After an error nothing is left.
func Create(cfg Config) (*Device, error) {
	if cfg.Name == "" {
		cfg.Name = defaultTemplate
	}
	d, err := create(&cfg)
	if err != nil {
		return nil, fmt.Errorf("creating TAP device %q: %w", cfg.Name, err)
	}
	return d, nil
}

func create(cfg *Config) (_ *Device, err error) {
	queues := max(cfg.Queues, 1)
	if queues > maxQueues {
		return nil, fmt.Errorf("%d queues, at most %d are possible", queues, maxQueues)
	}
	flags := cfg.flags()
	d := &Device{Name: cfg.Name}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	// Only the first may not meet a device of that name, the others must.
	if err := d.addQueue(flags | unix.IFF_TUN_EXCL); err != nil {
		return nil, err
	}
	// Before anything else: nobody else is to open the device.
	if err := d.setInt(unix.TUNSETOWNER, int(cfg.Owner)); err != nil {
		return nil, fmt.Errorf("setting the owner %d: %w", cfg.Owner, err)
	}
	for range queues - 1 {
		if err := d.addQueue(flags); err != nil {
			return nil, err
		}
	}
	if d.Index, err = indexOf(d.Name); err != nil {
		return nil, err
	}
	// As a port of a bridge it has no use for addresses, and routes of thousands of ports have the
	// kernel look through them all whenever a link comes or goes (fib6_clean_all of
	// net/ipv6/ip6_fib.c). Where it can't be set, things work all the same.
	_ = withoutIPv6(d.Name)
	return d, d.setAttributes(cfg)
}

// withoutIPv6 keeps the host's own IPv6 off a device, which may be one without any.
func withoutIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("keeping the host's IPv6 off %q: %w", name, err)
	}
	return nil
}

// Persist has the device stay when nobody has it open (TUNSETPERSIST), until it
// is deleted.
func (d *Device) Persist() error {
	if err := d.setInt(unix.TUNSETPERSIST, 1); err != nil {
		return fmt.Errorf("making TAP device %q persistent: %w", d.Name, err)
	}
	return nil
}

// Reopen opens the queues of the persistent device that cfg made, by its name and
// the index that it had. A device that is in use gives ErrBusy, one that is not
// there any more ErrGone.
func Reopen(cfg Config, index int) (*Device, error) {
	d, err := reopen(&cfg, index)
	if err != nil {
		return nil, fmt.Errorf("opening TAP device %q: %w", cfg.Name, err)
	}
	return d, nil
}

func reopen(cfg *Config, index int) (_ *Device, err error) {
	d := &Device{Name: cfg.Name, Index: index}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	for range max(cfg.Queues, 1) {
		if err := d.addQueue(cfg.flags()); errors.Is(err, ErrExists) {
			return nil, ErrBusy
		} else if err != nil {
			return nil, err
		}
	}
	// Where the device is gone, the kernel has made another, which goes with its
	// descriptors.
	if now, err := indexOf(d.Name); err != nil || now != index {
		return nil, ErrGone
	}
	return d, nil
}

// setInt sets an attribute of the device by an ioctl on its first descriptor.
func (d *Device) setInt(request uint, value int) error {
	raw, err := d.Files[0].SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.IoctlSetInt(int(fd), request, value) })
	return errors.Join(err, failed)
}

// flags are the device's TUNSETIFF flags.
func (c *Config) flags() uint16 {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if c.VnetHdr {
		flags |= unix.IFF_VNET_HDR
	}
	if c.Queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	return flags
}

// addQueue opens a queue of d, with the first the device itself, and sets d.Name
// to the name that the kernel chose.
func (d *Device) addQueue(flags uint16) error {
	fd, err := unix.Open(cloneDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return openError(err)
	}
	name, err := setInterface(fd, d.Name, flags)
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	d.Name = name
	// Not before TUNSETIFF: the poller takes a descriptor without a device
	// for a broken one.
	d.Files = append(d.Files, os.NewFile(uintptr(fd), cloneDevice))
	return nil
}

// openError says what to do about the usual reasons why the clone device can't
// be opened.
func openError(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fmt.Errorf("opening %s (is the kernel module tun loaded?): %w", cloneDevice, err)
	}
	return fmt.Errorf("opening %s: %w", cloneDevice, err)
}

// setInterface connects fd with the device of that name, or makes it, and
// returns its name.
func setInterface(fd int, name string, flags uint16) (string, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return "", fmt.Errorf("invalid name: %w", err)
	}
	ifr.SetUint16(flags)
	err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	switch {
	// IFF_TUN_EXCL gives EBUSY; a link that appears at the last moment EEXIST.
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EEXIST):
		return "", fmt.Errorf("%w: %w", ErrExists, err)
	case errors.Is(err, unix.EPERM):
		return "", fmt.Errorf("making the device takes CAP_NET_ADMIN: %w", err)
	case err != nil:
		return "", fmt.Errorf("making the device: %w", err)
	}
	return ifr.Name(), nil
}

// indexOf is the index of the link of that name.
func indexOf(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("looking up the index: %w", err)
	}
	err = unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr)
	if err = errors.Join(err, unix.Close(fd)); err != nil {
		return 0, fmt.Errorf("looking up the index: %w", err)
	}
	return int(ifr.Uint32()), nil
}

// setAttributes sets MAC address, MTU and alias, which TUNSETIFF doesn't take.
func (d *Device) setAttributes(cfg *Config) error {
	if cfg.MAC == nil && cfg.MTU == 0 && cfg.Alias == "" {
		return nil
	}
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(d.Index)
	req.AddData(msg)
	if cfg.MAC != nil {
		req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, cfg.MAC))
	}
	if cfg.MTU != 0 {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(cfg.MTU))))
	}
	if cfg.Alias != "" {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(cfg.Alias)))
	}
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("setting MAC address %v, MTU %d and alias %q: %w", cfg.MAC, cfg.MTU, cfg.Alias, err)
	}
	return nil
}

// Close closes the descriptors. The device goes with the last copy of them,
// which may be another process's.
func (d *Device) Close() error {
	var errs []error
	for _, f := range d.Files {
		errs = append(errs, f.Close())
	}
	d.Files = nil
	return errors.Join(errs...)
}

// HostMAC is the address of the host's side of a TAP device whose guest has the
// given one: the guest's with fe as first byte. A bridge that takes the lowest
// address of its ports never takes that one; libvirt and QEMU's bridge helper
// do the same. A guest's own fe becomes fa, as both sides must differ: a frame
// from the host's own address is dropped. It is nil unless guest has 6 bytes.
func HostMAC(guest net.HardwareAddr) net.HardwareAddr {
	if len(guest) != 6 {
		return nil
	}
	host := bytes.Clone(guest)
	host[0] = 0xfe
	if guest[0] == 0xfe {
		host[0] = 0xfa
	}
	return host
}
