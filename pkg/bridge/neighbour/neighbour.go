// Package neighbour tells the kernel which card has an address on a link: permanent entries
// of this host's neighbour table (ip-neighbour(8)).
package neighbour

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

const (
	// ndaProtocol is NDA_PROTOCOL of linux/neighbour.h, which kernels before 5.2 don't keep.
	ndaProtocol = 12
	// protocol marks the entries that Set makes, as vnetd's routes are marked.
	protocol = 66
)

// Entry says which card has an address.
type Entry struct {
	Addr netip.Addr
	MAC  [6]byte
}

// Table is the neighbour table of the network namespace of the thread that first asks. The
// zero Table can be used; Close it. Its methods may be called concurrently.
type Table struct {
	socket netlink.Lazy
}

// Close gives up the connection to the kernel. Entries stay.
func (t *Table) Close() { t.socket.Close() }

// do sends one request and waits for its acknowledgement.
func (t *Table) do(message []byte) error {
	s, err := t.socket.Open()
	if err != nil {
		return err
	}
	return errors.Join(s.Do(message)...)
}

// Set has this host send what is for the address, on the link with that ifindex, to the
// card, whatever anybody else claims. The entry goes when the link is set down.
func (t *Table) Set(link int, e Entry) error {
	attrs := netlink.AppendAttribute(nil, unix.NDA_DST, e.Addr.AsSlice())
	attrs = netlink.AppendAttribute(attrs, unix.NDA_LLADDR, e.MAC[:])
	attrs = netlink.AppendAttribute(attrs, ndaProtocol, []byte{protocol})
	const flags = unix.NLM_F_REQUEST | unix.NLM_F_CREATE | unix.NLM_F_REPLACE
	if err := t.do(netlink.NewMessage(unix.RTM_NEWNEIGH, flags, header(link, e.Addr, unix.NUD_PERMANENT), attrs)); err != nil {
		return fmt.Errorf("setting the neighbour %v of link %d: %w", e.Addr, link, err)
	}
	return nil
}

// Delete removes the entry of an address, whoever made it. No such entry, or no such link,
// is success.
func (t *Table) Delete(link int, a netip.Addr) error {
	err := t.do(netlink.NewMessage(unix.RTM_DELNEIGH, unix.NLM_F_REQUEST, header(link, a, 0), netlink.AppendAttribute(nil, unix.NDA_DST, a.AsSlice())))
	if err == nil || slices.ContainsFunc([]error{unix.ENOENT, unix.ENODEV, unix.ENXIO}, func(gone error) bool { return errors.Is(err, gone) }) {
		return nil
	}
	return fmt.Errorf("removing the neighbour %v of link %d: %w", a, link, err)
}

// List has the entries of a link that Set made, those of a former process too. A kernel
// that does not keep whose an entry is has none.
func (t *Table) List(link int) (all []Entry, err error) {
	for _, unspecified := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		some, err := t.dump(link, unspecified, func(e entry) bool { return e.ours })
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// Learned are the cards of a link that the kernel has heard say, or confirm, that an address
// of IPv6 is theirs, as long as it keeps that.
func (t *Table) Learned(link int) ([]Entry, error) {
	const heard = unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE
	return t.dump(link, netip.IPv6Unspecified(), func(e entry) bool { return e.state&heard != 0 && e.MAC != [6]byte{} })
}

// dump lists the entries of a link in a family, that of an address, which are wanted.
func (t *Table) dump(link int, family netip.Addr, wanted func(entry) bool) (all []Entry, err error) {
	s, err := t.socket.Open()
	if err != nil {
		return nil, err
	}
	// All but the family must be zero (neigh_valid_dump_req).
	ask := netlink.NewMessage(unix.RTM_GETNEIGH, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, header(0, family, 0),
		netlink.AppendAttribute(nil, unix.NDA_IFINDEX, netlink.Uint32(uint32(link))))
	dump, err := s.Dump(ask, unix.RTM_NEWNEIGH)
	if err != nil {
		return nil, fmt.Errorf("listing the neighbours of link %d: %w", link, err)
	}
	for _, body := range dump {
		if e, ok := parse(body, link); ok && wanted(e) {
			all = append(all, e.Entry)
		}
	}
	return all, nil
}

// Card is the card that this host takes an address of a link to be of, by whomever it was told;
// known is false where it takes it to be of none.
func (t *Table) Card(link int, a netip.Addr) (mac [6]byte, known bool, err error) {
	const unusable = unix.NUD_INCOMPLETE | unix.NUD_FAILED | unix.NUD_NOARP
	all, err := t.dump(link, a, func(e entry) bool { return e.Addr == a && e.state&unusable == 0 && e.MAC != [6]byte{} })
	if err != nil || len(all) == 0 {
		return mac, false, err
	}
	return all[0].MAC, true, nil
}

// header is a struct ndmsg.
func header(link int, a netip.Addr, state uint16) []byte {
	head := make([]byte, unix.SizeofNdMsg)
	head[0] = unix.AF_INET
	if a.Is6() {
		head[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(head[4:], uint32(link))
	binary.NativeEndian.PutUint16(head[8:], state)
	return head
}

// entry is an Entry with what else the kernel says of it.
type entry struct {
	Entry
	state uint16 // NUD_…
	ours  bool   // Set made it
}

// parse reads an entry. ok is false for one of another link, and one without an address.
func parse(body []byte, link int) (e entry, ok bool) {
	if len(body) < unix.SizeofNdMsg || int(binary.NativeEndian.Uint32(body[4:])) != link {
		return entry{}, false
	}
	e.state = binary.NativeEndian.Uint16(body[8:])
	for kind, value := range netlink.Attributes(body[unix.SizeofNdMsg:]) {
		switch kind {
		case unix.NDA_DST:
			e.Addr, _ = netip.AddrFromSlice(value)
		case unix.NDA_LLADDR:
			copy(e.MAC[:], value)
		case ndaProtocol:
			e.ours = len(value) == 1 && value[0] == protocol
		}
	}
	return e, e.Addr.IsValid()
}
