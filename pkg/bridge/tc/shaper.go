package tc

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Shaper speaks with the kernel about traffic in one network namespace, that of the thread
// that called New. Its methods are safe for concurrent use, but for one device at a time.
type Shaper struct {
	route *netlink.Socket
	// netfilter is nil where the kernel has none, which why tells.
	netfilter *netlink.Socket
	why       error
}

// New opens the sockets.
func New() (*Shaper, error) {
	route, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	s := &Shaper{route: route}
	s.netfilter, s.why = netlink.Open(unix.NETLINK_NETFILTER)
	return s, nil
}

// Close closes the sockets. Nothing of the kernel's changes.
func (s *Shaper) Close() {
	_ = s.route.Close()
	if s.netfilter != nil {
		_ = s.netfilter.Close()
	}
}

// Change is what differs of a device, in words, and what mends it. The error of Mend
// names the module that the kernel lacks, where it does.
type Change struct {
	Has, Want string // empty for nothing
	Mend      func() error
}

// Compare compares the device with that ifindex and name with what cfg asks. What it
// finds is to be mended before the next Compare of the device.
func (s *Shaper) Compare(index int, name string, cfg Config) (changes []Change, err error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	egress, ingress := plan(cfg)
	has, err := s.tree(index)
	if err != nil {
		return nil, err
	}
	if !has.equal(egress) {
		changes = append(changes, Change{words("to guests", has), words("to guests", egress), func() error { return s.mend(index, has, egress, !cfg.Shared) }})
	}
	from, err := s.from(index, !ingress.none())
	if err != nil {
		return nil, err
	}
	if !from.keeps(ingress) {
		changes = append(changes, Change{from.String(), words("from guests", ingress), func() error { return s.mendFrom(index, name, from, ingress) }})
	}
	return changes, nil
}

// words are what a tree is, in a direction; empty for none.
func words(direction string, t tree) string {
	if t.none() {
		return ""
	}
	return fmt.Sprintf("%s %v", direction, t)
}

// tree is the tree of ours on the device with that ifindex. One that has gone has none.
func (s *Shaper) tree(index int) (t tree, err error) {
	dump, err := s.route.Dump(dumpClasses(index), unix.RTM_NEWTCLASS)
	if err != nil {
		return tree{}, fmt.Errorf("listing classes of link %d: %w", index, err)
	}
	floors := false
	for _, body := range dump {
		minor, c, ok := parseClass(body)
		if !ok {
			continue
		}
		if t.classes == nil {
			t.classes = make(map[uint16]class)
		}
		t.classes[minor] = c
		floors = floors || minor >= MinFloorClass
	}
	if floors {
		t.match, err = s.matches(index)
	}
	return t, err
}

// matches are the addresses that lead to classes.
func (s *Shaper) matches(index int) (map[uint16]string, error) {
	dump, err := s.route.Dump(dumpFilters(index), unix.RTM_NEWTFILTER)
	if err != nil {
		return nil, fmt.Errorf("listing filters of link %d: %w", index, err)
	}
	all := make(map[uint16]string)
	for _, body := range dump {
		if minor, mac, ok := parseFilter(body); ok {
			all[minor] = mac
		}
	}
	return all, nil
}

// mend makes the tree has of a device want. In between nothing is held back longer than
// it is by the one or the other, but where the root is new.
func (s *Shaper) mend(index int, has, want tree, alone bool) error {
	if want.none() {
		return absent(s.do(deleteQdisc(index, atRoot)))
	}
	if has.none() {
		// Somebody's, or one of ours without classes. The kernel's own can't be deleted.
		_ = s.do(deleteQdisc(index, atRoot))
		sorted := uint16(restClass)
		if alone {
			sorted = rootClass
		}
		if err := s.do(newRoot(index, sorted)); err != nil {
			return lacking(err, "sch_htb")
		}
	}
	for _, minor := range slices.Sorted(maps.Keys(want.classes)) {
		if err := s.mendClass(index, minor, has, want); err != nil {
			return err
		}
	}
	for _, minor := range slices.Backward(slices.Sorted(maps.Keys(has.classes))) {
		if _, wanted := want.classes[minor]; wanted {
			continue
		}
		if has.match[minor] != "" {
			_ = s.do(deleteFilter(index, minor))
		}
		if err := s.do(deleteClass(index, minor)); err != nil {
			return fmt.Errorf("deleting class %d: %w", minor, err)
		}
	}
	return nil
}

// mendClass makes one class, its queue and what leads to it as in want.
func (s *Shaper) mendClass(index int, minor uint16, has, want tree) error {
	c, was := want.classes[minor], has.classes[minor]
	if was != c {
		if err := s.do(newClass(index, minor, c)); err != nil {
			return fmt.Errorf("setting class %d to %v: %w", minor, c, err)
		}
	}
	if c.queue && !was.queue {
		if err := s.newQueue(index, minor, c); err != nil {
			return err
		}
	}
	mac := want.match[minor]
	if mac == has.match[minor] {
		return nil
	}
	if has.match[minor] != "" {
		_ = s.do(deleteFilter(index, minor))
	}
	return lacking(s.do(newFilter(index, minor, mac)), "cls_u32")
}

// newQueue gives a class the best queue that the kernel has.
func (s *Shaper) newQueue(index int, minor uint16, c class) (err error) {
	for _, d := range disciplines() {
		if err = s.do(newQueue(index, minor, c, d)); !errors.Is(err, unix.ENOENT) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("giving class %d a queue: %w", minor, err)
	}
	return nil
}

// way is how what comes in from a device goes.
type way struct {
	tree
	ifb      ifb
	forwards bool // what comes in goes to the IFB device
}

func (w way) none() bool { return w.ifb.index == 0 && !w.forwards }

// keeps reports whether what comes in goes by the classes of t.
func (w way) keeps(t tree) bool {
	if t.none() {
		return w.none()
	}
	return w.forwards && w.ifb.up && w.tree.equal(t)
}

func (w way) String() string {
	switch {
	case w.none():
		return ""
	case w.ifb.index == 0 || !w.ifb.up:
		return "from guests nothing, the IFB device is away or down"
	case !w.forwards:
		return "from guests everything, past the IFB device"
	}
	return "from guests " + w.tree.String()
}

// from is how what comes in from a device goes. Where nothing is wanted, an IFB device
// that is there is enough to know.
func (s *Shaper) from(index int, wanted bool) (w way, err error) {
	if w.ifb, err = s.lookIFB(index); err != nil || !wanted && w.ifb.index == 0 {
		return way{}, err
	}
	if w.ifb.index != 0 {
		if w.tree, err = s.tree(w.ifb.index); err != nil {
			return way{}, err
		}
	}
	if s.netfilter == nil {
		return w, nil
	}
	dump, err := s.netfilter.Dump(dumpForward(index), unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return way{}, fmt.Errorf("listing the rules at the ingress of link %d: %w", index, err)
	}
	for _, body := range dump {
		if to := parseForward(body, index); to != 0 {
			w.forwards = to == w.ifb.index
		}
	}
	return w, nil
}

// mendFrom makes the way of what comes in from a device that of the tree want, which ends
// before it begins: nothing goes to an IFB device that is not ready.
func (s *Shaper) mendFrom(index int, name string, has way, want tree) error {
	if want.none() {
		return s.Clear(index)
	}
	if s.netfilter == nil {
		return fmt.Errorf("limiting what comes in takes nftables: %w", s.why)
	}
	if has.ifb.index == 0 || !has.ifb.up {
		if err := s.Clear(index); err != nil {
			return err
		}
		err := s.doAll(newIFB(index))
		if err == nil {
			has.tree, has.forwards = tree{}, false
			has.ifb, err = s.lookIFB(index)
		}
		if err != nil {
			return lacking(err, "ifb")
		}
	}
	if err := s.mend(has.ifb.index, has.tree, want, true); err != nil {
		return err
	}
	if has.forwards {
		return nil
	}
	return lacking(transaction(s.netfilter, newForward(index, name, has.ifb.index)), "nft_fwd_netdev")
}

// Clear ends limits of what comes in from the device with that ifindex, which may be gone:
// what is on a device itself goes with it.
func (s *Shaper) Clear(index int) error {
	var errs []error
	if s.netfilter != nil {
		errs = append(errs, absent(transaction(s.netfilter, deleteForward(index))))
	}
	return errors.Join(append(errs, absent(s.do(deleteIFB(index))))...)
}

// Reset takes away what another program has set up on the device with that ifindex, to
// hold its traffic as libvirt does. What is ours is to be compared anew.
func (s *Shaper) Reset(index int) error {
	return errors.Join(absent(s.do(deleteQdisc(index, atRoot))), absent(s.do(deleteQdisc(index, atIngress))))
}

// Unfill takes away what libvirt's nftables backend has on a bridge with that ifindex that it
// holds to no bandwidth, to fill in checksums of DHCP: HTB at the root with the handle 1:,
// a filter, and no class. Somebody's with classes stays, and so does any other queue.
func (s *Shaper) Unfill(index int) error {
	dump, err := s.route.Dump(dumpClasses(index), unix.RTM_NEWTCLASS)
	if err != nil {
		return fmt.Errorf("listing classes of link %d: %w", index, err)
	}
	if len(dump) > 0 {
		return nil
	}
	return absent(s.do(deleteLibvirts(index))) // not where it is of another kind, or handle
}

// Sweep clears what is left of devices that are gone, or, with all, of any.
func (s *Shaper) Sweep(all bool) error {
	left, err := s.left()
	errs := []error{err}
	for of, there := range left {
		if all || !there {
			errs = append(errs, s.Clear(of))
		}
	}
	return errors.Join(errs...)
}

// do has the kernel carry out one message.
func (s *Shaper) do(message []byte) error { return s.doAll([][]byte{message}) }

func (s *Shaper) doAll(messages [][]byte) error { return errors.Join(s.route.Do(messages...)...) }

// absent takes for success that there is nothing to delete, or no device to delete it
// from.
func absent(err error) error {
	for _, none := range []error{unix.ENOENT, unix.ENODEV, unix.EINVAL} {
		if errors.Is(err, none) {
			return nil
		}
	}
	return err
}

// ErrLacking says that the kernel lacks a module.
var ErrLacking = errors.New("the kernel lacks a module")

// lacking has an error by which the kernel says that it does not know something name the
// module that has it.
func lacking(err error, module string) error {
	for _, unknown := range []error{unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT} {
		if errors.Is(err, unknown) {
			return fmt.Errorf("%w, %s: %w", ErrLacking, module, err)
		}
	}
	return err
}
