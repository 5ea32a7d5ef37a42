package nft

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// guardPriority is that of the ports' chains at ingress. What others do there at the
// usual priority comes after.
const guardPriority = -100

// socketBuffer holds a transaction of some ten thousand messages and its answers.
const socketBuffer = 32 << 20

// elementsAtOnce is how many elements go into one message, whose attributes end at
// 64 KiB.
const elementsAtOnce = 400

// chain is a chain and what stands in it; device has it at that device's ingress.
type chain struct {
	name, device string
	rules        []rule
}

// batch is a transaction in the making.
type batch struct {
	conn  *nftables.Conn
	table *nftables.Table
	errs  []error
	sets  map[string]*nftables.Set
	adds  map[string][]nftables.SetElement
	dels  map[string][]nftables.SetElement
}

// kernel is the connection to nftables, which there is not until connect.
type kernel struct {
	conn *nftables.Conn
	port atomic.Uint32 // the socket's address, 0 before there is one
}

// connect makes the connection, if there is none.
func (k *kernel) connect() error {
	if k.conn != nil {
		return nil
	}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(k.learnPort(c), c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return fmt.Errorf("connecting to nftables: %w", err)
	}
	k.conn = conn
	return nil
}

// learnPort finds out which address the socket has.
func (k *kernel) learnPort(c *netlink.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		var addr unix.Sockaddr
		addr, failed = unix.Getsockname(int(fd))
		if at, ok := addr.(*unix.SockaddrNetlink); ok {
			k.port.Store(at.Pid)
		}
	})
	return errors.Join(err, failed)
}

func (k *kernel) close() error {
	if k.conn == nil {
		return nil
	}
	err := k.conn.CloseLasting()
	k.conn = nil
	return err
}

// names are those of the tables of guards that there are, by whomever.
func (k *kernel) names() (names []string, err error) {
	tables, err := k.conn.ListTablesOfFamily(nftables.TableFamilyNetdev)
	for _, t := range tables {
		if firewall.IsGuardTable(t.Name) {
			names = append(names, t.Name)
		}
	}
	return names, err
}

// drop deletes tables.
func (k *kernel) drop(names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		k.conn.DelTable(&nftables.Table{Name: name, Family: nftables.TableFamilyNetdev})
	}
	return k.conn.Flush()
}

// place is a table of the kernel, and its sets as far as they were made here.
type place struct {
	kernel *kernel
	table  *nftables.Table
	sets   map[string]*nftables.Set
}

// begin begins a transaction.
func (t *place) begin() *batch {
	return &batch{conn: t.kernel.conn, table: t.table, sets: t.sets, adds: make(map[string][]nftables.SetElement), dels: make(map[string][]nftables.SetElement)}
}

// anew has the table be there and empty.
func (b *batch) anew() {
	b.conn.AddTable(b.table)
	b.conn.DelTable(b.table)
	b.conn.AddTable(b.table)
	clear(b.sets)
}

// addSets makes sets.
func (b *batch) addSets(all []nftables.Set) {
	for i := range all {
		s := all[i]
		s.Table = b.table
		b.sets[s.Name] = &s
		b.errs = append(b.errs, b.conn.AddSet(&s, nil))
	}
}

// addChains makes chains, and then what stands in them: they lead to each other.
func (b *batch) addChains(all []chain) {
	made := make([]*nftables.Chain, len(all))
	for i, c := range all {
		made[i] = &nftables.Chain{Name: c.name, Table: b.table}
		if c.device != "" {
			made[i].Type, made[i].Hooknum, made[i].Device = nftables.ChainTypeFilter, nftables.ChainHookIngress, c.device
			made[i].Priority = nftables.ChainPriorityRef(guardPriority)
		}
		b.conn.AddChain(made[i])
	}
	for i, c := range all {
		for _, r := range c.rules {
			b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: made[i], Exprs: r})
		}
	}
}

// empty takes away what stands in chains, which are there.
func (b *batch) empty(all []chain) {
	for _, c := range all {
		b.conn.FlushChain(&nftables.Chain{Name: c.name, Table: b.table})
	}
}

// deleteChains deletes chains.
func (b *batch) deleteChains(names ...string) {
	for _, name := range names {
		b.conn.DelChain(&nftables.Chain{Name: name, Table: b.table})
	}
}

// deleteSets deletes sets with what is in them. No rule may look into them any more.
func (b *batch) deleteSets(all []nftables.Set) {
	for i := range all {
		delete(b.dels, all[i].Name)
		b.conn.DelSet(b.set(all[i].Name))
		delete(b.sets, all[i].Name)
	}
}

// add adds an element to its set.
func (b *batch) add(e element) { b.adds[e.set] = append(b.adds[e.set], e.kernel()) }

// remove takes elements away from their sets.
func (b *batch) remove(all ...element) {
	for _, e := range all {
		b.dels[e.set] = append(b.dels[e.set], e.kernel())
	}
}

func (e element) kernel() nftables.SetElement {
	s := nftables.SetElement{Key: []byte(e.from)}
	if e.to != "" {
		s.KeyEnd = []byte(e.to)
	}
	return s
}

// commit carries the transaction out, or nothing of it.
func (b *batch) commit() error {
	for name, all := range b.dels {
		b.errs = append(b.errs, inParts(all, func(part []nftables.SetElement) error { return b.conn.SetDeleteElements(b.set(name), part) }))
	}
	for name, all := range b.adds {
		b.errs = append(b.errs, inParts(all, func(part []nftables.SetElement) error { return b.conn.SetAddElements(b.set(name), part) }))
	}
	return errors.Join(append(b.errs, b.conn.Flush())...)
}

func (b *batch) set(name string) *nftables.Set {
	if s := b.sets[name]; s != nil {
		return s
	}
	return &nftables.Set{Name: name, Table: b.table}
}

func inParts(all []nftables.SetElement, f func([]nftables.SetElement) error) error {
	var errs []error
	for len(all) > 0 {
		n := min(len(all), elementsAtOnce)
		errs = append(errs, f(all[:n]))
		all = all[n:]
	}
	return errors.Join(errs...)
}

// missing reports whether an error is that of a kernel without a part that guards
// need.
func missing(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT)
}
