package bridge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/bridge/vlan"
)

// ErrNotFiltering says that a port shall have VLANs on a bridge that carries frames
// whatever their tags.
var ErrNotFiltering = errors.New("the bridge does not filter VLANs")

// VLANs is the table of the bridge or port with that index; empty where the kernel has
// none.
func (b *Bridges) VLANs(index int) (vlan.Table, error) { return readVLANs(b.conn, index) }

// SetVLANs has the VLANs of the bridge's port with index port be those of the table, and,
// where more is true, those that it has beside. Bridges.Attach does so for the ports that
// it plugs in. The error is ErrNotFiltering where the port's bridge does not look at
// tags, ErrNotFound where there is no such link, or it is on no bridge.
func (b *Bridges) SetVLANs(port int, t vlan.Table, more bool, amend Amend) error {
	l, err := b.conn.byIndex(port)
	if err != nil {
		return err
	}
	br, err := b.conn.byIndex(l.Master)
	if err == nil {
		err = br.MustFilter()
	}
	if err != nil {
		return fmt.Errorf("setting the VLANs of port %q: %w", l.Name, err)
	}
	has, err := readVLANs(b.conn, port)
	if err != nil {
		return fmt.Errorf("looking at the VLANs of port %q: %w", l.Name, err)
	}
	if more {
		for _, e := range has {
			if !t.Has(e.ID) {
				t = t.With(vlan.Entry{ID: e.ID, Untagged: e.Untagged})
			}
		}
	}
	return b.conn.carryOut(vlanChanges(&l, has, t), amend)
}

// PlainVLANs is the table of a port of the bridge br that has no VLANs of its own: that
// of the untagged frames of the bridge, which the kernel gives to what is plugged in.
func PlainVLANs(br Link) vlan.Table { return vlan.Untagged(br.DefaultVLAN) }

// MustFilter is an error unless the bridge br looks at tags: ErrCantFilter, or
// ErrNotFiltering.
func (br *Link) MustFilter() error {
	switch {
	case !br.CanFilterVLANs:
		return ErrCantFilter
	case !br.FiltersVLANs:
		return fmt.Errorf("%w: %q", ErrNotFiltering, br.Name)
	}
	return nil
}

// vlansOf makes of the VLANs of l, a port of br or about to be, those of p.
func vlansOf(c *conn, br, l *link, p PortConfig) ([]change, error) {
	want := p.VLANs
	switch {
	case want == nil && (!p.PlainVLANs || !br.FiltersVLANs):
		return nil, nil
	case want == nil:
		want = PlainVLANs(br.Link)
	default:
		if err := errors.Join(want.Check(), br.MustFilter()); err != nil {
			return nil, err
		}
	}
	if l.Master != br.Index {
		return vlanChanges(l, PlainVLANs(br.Link), want), nil
	}
	has, err := readVLANs(c, l.Index)
	if errors.Is(err, unix.EOPNOTSUPP) && p.VLANs == nil { // before Linux 5.6
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking at the VLANs of port %q: %w", l.Name, err)
	}
	return vlanChanges(l, has, want), nil
}

// vlanChanges make of the VLANs that l has others; no change where they are the same.
func vlanChanges(l *link, has, want vlan.Table) []change {
	remove, set := vlan.Differ(has, want)
	if len(remove)+len(set) == 0 {
		return nil
	}
	var reqs []*nl.NetlinkRequest
	for _, id := range remove {
		reqs = append(reqs, vlanRequest(unix.RTM_DELVLAN, vlan.Remove(l.Index, id)))
	}
	for _, e := range set {
		reqs = append(reqs, vlanRequest(unix.RTM_NEWVLAN, vlan.Set(l.Index, e)))
	}
	return []change{differs(l.Name, AspectVLAN, has, want, reqs...)}
}

func vlanRequest(kind int, body []byte) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, 0)
	req.AddRawData(body)
	return req
}

// readVLANs reads the table of a bridge or port.
func readVLANs(c *conn, index int) (t vlan.Table, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETVLAN, unix.NLM_F_DUMP)
	req.AddRawData(vlan.Head(index))
	bodies, err := c.Dump(req.Serialize(), unix.RTM_NEWVLAN)
	if err != nil {
		return nil, err
	}
	t = vlan.Table{}
	for _, body := range bodies {
		if t, err = t.Read(body, index); err != nil {
			return nil, err
		}
	}
	return slices.Clip(t), nil
}
