// Package offload has established connections of guests go past the rules: by a flowtable
// of nftables, in a table of vnetd's own beside either writer's rules. Rules decide of a
// connection's first packets, as without it; what they accepted and was answered is taken
// from the ingress of one device to its way out by another, without being asked about any
// rule again. Whenever rules change, all connections are asked about anew.
//
// The flowtable has networks' bridges, not their ports, and the devices by which this host
// is on other networks. So the ports' guards see every packet before it, and a bridge
// still chooses the port, its VLAN and its bandwidth after it.
package offload

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// Config is what New needs to know.
type Config struct {
	// Default has connections of networks offloaded that do not say.
	Default bool
	Logger  *slog.Logger // told what was found and changed; nil discards it
}

// Table is the table, in the network namespace of the thread that first uses it. Its
// methods may be called concurrently.
type Table struct {
	cfg Config
	// port is the address of socket, 0 before there is one: notifications tell whose
	// doing a change is.
	port atomic.Uint32

	mu       sync.Mutex // guards what follows
	socket   *nfnetlink.Socket
	route    *netlink.Socket
	asked    bool            // it was said which networks there are
	networks map[string]bool // bridges of networks: whether they are offloaded
	stands   bool            // the table is as what follows says
	bridges  []string        // sorted
	devices  map[string]int  // ifindexes, by name
	hardware bool            // devices do it themselves
	refused  []string        // devices of which some can't
	err      error
}

var _ firewall.Offload = (*Table)(nil)

// New returns a Table. It touches nothing before Set.
func New(cfg Config) *Table {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Table{cfg: cfg, networks: map[string]bool{}}
}

// Err is firewall.Offload's.
func (t *Table) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Set is firewall.Offload's.
func (t *Table) Set(networks iter.Seq[*firewall.Network]) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = true
	clear(t.networks)
	for n := range networks {
		if n.Mode == firewall.ModeNAT || n.Mode == firewall.ModeRoute || n.Mode == firewall.ModeOpen {
			t.networks[n.Bridge] = n.Offload == firewall.OffloadOn || n.Offload == firewall.OffloadUnset && t.cfg.Default
		} else {
			t.networks[n.Bridge] = false
		}
	}
	t.settle()
}

// Suspend is firewall.Offload's.
func (t *Table) Suspend() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.stands || len(t.devices) == 0 {
		return nil
	}
	return t.remove()
}

// Purge is firewall.Offload's.
func (t *Table) Purge() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.networks)
	return t.remove()
}

// Close gives up the connections to the kernel. It touches no rule.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	if t.socket != nil {
		errs = append(errs, t.socket.Close())
	}
	if t.route != nil {
		errs = append(errs, t.route.Close())
	}
	t.socket, t.route = nil, nil
	return errors.Join(errs...)
}

// remove deletes the table.
func (t *Table) remove() error {
	if err := t.connect(); err != nil {
		return err
	}
	t.stands, t.bridges, t.devices = false, nil, nil
	if there, err := t.socket.HasTable(place.Family, place.Table); err == nil && !there {
		return nil
	}
	err := t.commit(removal())
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil // a kernel without such tables has none
	}
	return err
}

// settle makes the table what it should be, and keeps what became of it.
func (t *Table) settle() {
	err := t.connect()
	if err == nil {
		err = t.become()
	}
	if err != nil && (t.err == nil || t.err.Error() != err.Error()) {
		t.cfg.Logger.Warn("connections are not offloaded", "error", err)
	}
	t.err = err
}

func (t *Table) connect() (err error) {
	if t.socket == nil {
		if t.socket, err = nfnetlink.Open(); err != nil {
			return err
		}
		t.port.Store(t.socket.Address())
	}
	if t.route == nil {
		t.route, err = netlink.Open(unix.NETLINK_ROUTE)
	}
	return err
}

// become makes the table what it should be.
func (t *Table) become() error {
	bridges, devices, err := t.wanted()
	switch {
	case err != nil:
		return fmt.Errorf("listing the host's devices: %w", err)
	case len(bridges) == 0:
		if t.stands && len(t.devices) == 0 {
			return nil
		}
		err := t.remove()
		t.stands = err == nil
		return err
	}
	newBridges := without(bridges, func(name string) bool { return slices.Contains(t.bridges, name) })
	newDevices := without(slices.Sorted(maps.Keys(devices)), func(name string) bool { return t.devices[name] == devices[name] })
	grown := t.stands && len(t.bridges) > 0 && len(t.bridges)+len(newBridges) == len(bridges) && len(t.devices)+len(newDevices) == len(devices)
	switch {
	case grown && len(newBridges)+len(newDevices) == 0:
		return nil
	case grown:
		err = t.commit(addition(newBridges, newDevices, t.hardware))
	}
	if !grown || err != nil {
		err = t.rewrite(bridges, slices.Sorted(maps.Keys(devices)))
	}
	if t.stands = err == nil; t.stands {
		t.bridges, t.devices = bridges, devices
	}
	return err
}

// rewrite makes the table anew by one transaction, in hardware where all devices can.
func (t *Table) rewrite(bridges, devices []string) (err error) {
	if !slices.Equal(t.refused, devices) {
		if err = t.commit(slices.Concat(removal(), creation(bridges, devices, true))); err == nil {
			t.hardware = true
			t.cfg.Logger.Info("connections are offloaded to hardware", "devices", devices)
			return nil
		}
	}
	t.hardware, t.refused = false, devices
	err = t.commit(slices.Concat(removal(), creation(bridges, devices, false)))
	if err != nil {
		return fmt.Errorf("making a flowtable: %w", err)
	}
	return nil
}

// commit carries out a transaction.
func (t *Table) commit(messages [][]byte) error {
	return t.socket.Commit(messages, 0, func(int, netlink.Message) {})
}

// wanted are the bridges of offloaded networks that are there, sorted, and the devices of
// the flowtable with their ifindexes: those bridges, and what else leads elsewhere.
func (t *Table) wanted() (bridges []string, devices map[string]int, err error) {
	devices = map[string]int{}
	if !slices.Contains(slices.Collect(maps.Values(t.networks)), true) {
		return nil, devices, nil
	}
	all, addressed, err := links(t.route)
	if err != nil {
		return nil, nil, err
	}
	for name, l := range all {
		offloaded, ours := t.networks[name]
		if offloaded {
			bridges = append(bridges, name)
		}
		if offloaded || !ours && l.apart && addressed[l.index] {
			devices[name] = l.index
		}
	}
	slices.Sort(bridges)
	return bridges, devices, nil
}

// without are those for which has is false.
func without(names []string, has func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(names), has)
}
