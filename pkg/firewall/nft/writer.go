package nft

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// Config is what New needs to know. The zero value is a good one.
type Config struct {
	// LibvirtExactRules leaves out the rules by which vnetd differs from libvirt: see
	// firewall.AskOutbound.
	LibvirtExactRules bool
	// Others tells of what others have done; nil: nobody does.
	Others Others
	// Keeper is shared with other writers, whoever made it releases it; nil: the writer
	// has one of its own.
	Keeper *keep.Keeper
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Others is what is known of rules of others than the writer.
type Others interface {
	// Conditions are firewall.Writer's. foreign is the generation of nftables up to
	// which somebody else may have changed rules; 0: not known.
	Conditions(ctx context.Context, foreign uint32, networks []firewall.Network) ([]firewall.Condition, error)
	// RemoveLeftovers is firewall.Writer's.
	RemoveLeftovers(ctx context.Context, n firewall.Network) error
}

// Writer writes networks' rules into tables of vnetd's own, in which a network is
// elements of sets and maps: a packet costs the same whatever the number of networks.
// Whatever changes is one transaction, of both families. Nothing is executed.
type Writer struct {
	log    *slog.Logger
	exact  bool
	others Others
	keeper *keep.Keeper
	shared bool // keeper is another's
	// port is the address of socket, 0 before there is one: notifications tell whose
	// doing a change is.
	port atomic.Uint32

	mu     sync.Mutex // guards what follows
	socket *nfnetlink.Socket
	tables map[firewall.Family]*table
	shares map[string]map[firewall.Family]*share // of networks, by bridge
	stands bool                                  // the tables are this process'
	// known is the generation of nftables up to which nobody else has changed the
	// tables, and foreign the last one in which others changed anything. 0: not known.
	known, foreign uint32
	commits        netlink.Subscription // of which catchUp has read all but what came since
	coming         commit               // of which catchUp has read a part
	anew           bool                 // the writer makes the tables anew, whatever there was

	heardMu sync.Mutex
	heard   []string // guarded by heardMu
}

var _ firewall.Writer = (*Writer)(nil)

// New returns a Writer. It touches nothing: what a former process left stands until the
// first change, which replaces it.
func New(cfg Config) *Writer {
	w := &Writer{log: cfg.Logger, exact: cfg.LibvirtExactRules, others: cfg.Others, shares: map[string]map[firewall.Family]*share{}}
	w.commits.Buffer = commitsBuffer
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.keeper, w.shared = cfg.Keeper, cfg.Keeper != nil; !w.shared {
		w.keeper = new(keep.Keeper)
	}
	return w
}

// connect opens the connections to the kernel. The caller holds mu.
func (w *Writer) connect() (err error) {
	if w.tables != nil {
		return nil
	}
	if w.socket == nil {
		if w.socket, err = nfnetlink.Open(); err != nil {
			return err
		}
	}
	w.port.Store(w.socket.Address())
	w.catchUp()
	w.tables = map[firewall.Family]*table{}
	for f := range families {
		w.tables[f] = newTable(families[f], networksTable)
	}
	return nil
}

// Close is firewall.Writer's.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var err error
	if w.socket != nil {
		err = w.socket.Close()
	}
	w.commits.Close()
	if !w.shared {
		err = errors.Join(err, w.keeper.Release())
	}
	w.socket, w.tables, w.stands = nil, nil, false
	return err
}

// Apply is firewall.Writer's.
func (w *Writer) Apply(_ context.Context, desired firewall.Desired, changes []firewall.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[string]map[firewall.Family]*share{}
	for _, c := range changes {
		shares, err := w.render(c.Network, c.Rules)
		if err != nil {
			return err
		}
		next[c.Network.Bridge] = shares
	}
	if err := w.connect(); err != nil {
		return err
	}
	err := errors.New("not yet written")
	if w.whole() {
		err = w.change(next)
	}
	if err != nil {
		w.log.Debug("the tables of networks are made anew", "reason", err)
		if err = w.rewrite(desired, next); err != nil {
			return explain(err)
		}
	}
	w.hold(desired.After(changes))
	return nil
}

// explain says what a kernel may lack.
func explain(err error) error {
	if missing(err) {
		return fmt.Errorf("writing the tables %s of nftables: the kernel lacks a part of nftables that is needed, as of Linux 5.7 (nf_tables, nft_ct, nft_masq, nft_nat, nft_redir, nft_reject): %w", networksTable, err)
	}
	return fmt.Errorf("writing the tables %s of nftables: %w", networksTable, err)
}

// render renders a network's rules under the writer's options.
func (w *Writer) render(n firewall.Network, rules []firewall.Rule) (map[firewall.Family]*share, error) {
	if w.exact {
		rules = slices.DeleteFunc(slices.Clone(rules), firewall.Rule.Extra)
	}
	shares, err := render(commentOf(n), rules)
	if err != nil {
		return nil, fmt.Errorf("bridge %q: %w", n.Bridge, err)
	}
	return shares, nil
}

// change brings what stands for bridges to what they have next, in one transaction.
func (w *Writer) change(next map[string]map[firewall.Family]*share) error {
	touched := map[firewall.Family][]string{}
	var all [][]byte
	for f, t := range w.tables {
		var before, after []*share
		for bridge, shares := range next {
			before, after = append(before, w.shares[bridge][f]), append(after, shares[f])
		}
		d := t.exchange(before, after)
		touched[f] = d.touched()
		messages, err := t.messages(d)
		if err != nil {
			w.lose()
			return err
		}
		all = append(all, messages...)
	}
	for bridge, shares := range next {
		w.note(bridge, shares)
	}
	if len(all) == 0 {
		return nil
	}
	return w.commit(all, touched)
}

// note keeps what a network has.
func (w *Writer) note(bridge string, shares map[firewall.Family]*share) {
	if len(shares) == 0 {
		delete(w.shares, bridge)
		return
	}
	w.shares[bridge] = shares
}

// rewrite makes the tables anew, in one transaction, of desired as next changes it.
// What a former process may have had of a network as well stands then if all of it stood.
func (w *Writer) rewrite(desired firewall.Desired, next map[string]map[firewall.Family]*share) error {
	w.stands = false
	w.offerUsers()
	before, stood := w.shares, formerElements{socket: w.socket}
	w.shares = map[string]map[firewall.Family]*share{}
	for _, e := range desired {
		if _, changed := next[e.Network.Bridge]; changed {
			continue
		}
		shares := before[e.Network.Bridge]
		if shares == nil {
			var err error
			if shares, err = w.adopted(e, &stood); err != nil {
				return err
			}
		}
		w.note(e.Network.Bridge, shares)
	}
	for bridge, shares := range next {
		w.note(bridge, shares)
	}
	var all [][]byte
	for f, t := range w.tables {
		t.forget()
		var after []*share
		for _, shares := range w.shares {
			after = append(after, shares[f])
		}
		d := t.exchange(nil, after)
		if d.empty {
			all = append(all, t.drop()...)
		}
		messages, err := t.messages(d)
		if err != nil {
			w.lose()
			return err
		}
		all = append(all, messages...)
	}
	w.known, w.anew = 0, true
	defer func() { w.anew = false }()
	return w.commit(all, nil)
}

// adopted renders what a former process has left of a network: all that it may have had if that
// stands, and otherwise what it had for sure, lest guests be led to where nobody listens.
func (w *Writer) adopted(e firewall.Entry, stood *formerElements) (map[firewall.Family]*share, error) {
	sure, err := w.render(e.Network, e.Rules)
	if len(e.Former) == 0 || err != nil {
		return sure, err
	}
	all, err := w.render(e.Network, e.All())
	if err != nil {
		return nil, err
	}
	for f, s := range all {
		for _, one := range s.elements {
			if (sure[f] == nil || !slices.Contains(sure[f].elements, one)) && !stood.has(f, one) {
				return sure, nil
			}
		}
	}
	return all, nil
}

// formerElements are those that stand in the tables of a former process, by family and set, as far
// as they were asked for.
type formerElements struct {
	socket *nfnetlink.Socket
	found  map[familySet]map[element]bool
}

// familySet is a set of a family's table.
type familySet struct {
	family firewall.Family
	set    string
}

// has reports whether an element stands. What can't be listed does not.
func (s *formerElements) has(f firewall.Family, e element) bool {
	key := familySet{f, e.set}
	if s.found[key] == nil {
		there, _ := s.socket.Elements(families[f].number, networksTable, e.set)
		if s.found == nil {
			s.found = map[familySet]map[element]bool{}
		}
		s.found[key] = map[element]bool{}
		for _, one := range there {
			s.found[key][readElement(e.set, one)] = true
		}
	}
	for _, m := range e.messages() {
		if !s.found[key][readElement(e.set, m)] {
			return false
		}
	}
	return true
}

// commit carries messages out as one transaction, and reads back what stands then in the
// chains that are touched.
func (w *Writer) commit(messages [][]byte, touched map[firewall.Family][]string) error {
	before, err := w.socket.Current()
	if err == nil {
		err = w.send(messages)
	}
	if err != nil {
		w.known = 0
		w.lose()
		return err
	}
	w.stands = true
	for f, t := range w.tables {
		if err := t.learn(w.socket, touched[f]); err != nil {
			w.known = 0
			return err
		}
	}
	if !w.anew || w.known != 0 {
		return nil
	}
	if now, err := w.socket.Current(); err == nil && now == next(before) {
		w.known = now // more was told than could wait
	}
	return nil
}

// send is commit without what comes after. Where a generation is known the kernel refuses the
// transaction in any other, and it is tried again unless somebody else has changed the tables.
func (w *Writer) send(messages [][]byte) error {
	for {
		expected := w.known
		err := w.socket.Commit(messages, expected, func(int, netlink.Message) {})
		if err == nil && expected != 0 {
			w.known = next(expected)
			return nil
		}
		w.catchUp() // the kernel has told of what came between by now
		if expected == 0 || !errors.Is(err, unix.ERESTART) || w.known == 0 || w.known == expected {
			return err
		}
	}
}

// lose forgets what was noted and is not in the kernel.
func (w *Writer) lose() {
	w.stands, w.shares = false, map[string]map[firewall.Family]*share{}
}

// whole reports whether the tables are as this process has written them.
func (w *Writer) whole() bool {
	if !w.stands {
		return false
	}
	d, err := w.differs()
	return err == nil && !d.any()
}

// differs is how the tables differ from what this process has written, which is not looked
// for as long as nobody else has changed them.
func (w *Writer) differs() (d damage, err error) {
	if w.catchUp(); w.known != 0 {
		return d, nil
	}
	now, err := w.socket.Current()
	if err != nil {
		return d, err
	}
	w.log.Debug("the tables of networks are looked at: others may have changed them", "generation", now)
	d, err = w.inspect()
	if err != nil || d.any() {
		return d, err
	}
	w.known = now
	w.catchUp()
	return d, nil
}

// hold sees to it that connections that the kernel must know outlive a flush, and that
// guests are kept from loopback addresses then. The caller holds mu.
func (w *Writer) hold(networks iter.Seq[*firewall.Network]) {
	for f := range families {
		if w.keeper.Holds(f, networks) {
			continue
		}
		done, err := w.keeper.Hold(f, networks)
		if err != nil {
			w.log.Warn("connections of guests may be lost when rules are flushed", "family", f, "table", keep.Table, "error", err)
		}
		if now, err := w.socket.Current(); done && err == nil && w.known == now-1 {
			w.known = now
		}
	}
}

// Purge is firewall.Writer's. The tables are vnetd's own: whatever is in them goes.
func (w *Writer) Purge(context.Context, firewall.Desired) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.connect(); err != nil {
		return nil // a kernel without nftables has no tables
	}
	var all [][]byte
	for f, t := range w.tables {
		t.forget()
		if there, err := w.socket.HasTable(families[f].number, networksTable); err == nil && there {
			all = append(all, t.drop()...)
		}
	}
	clear(w.shares)
	w.stands, w.known = false, 0
	if len(all) > 0 {
		if err := w.socket.Commit(all, 0, func(int, netlink.Message) {}); err != nil {
			return fmt.Errorf("removing the tables %s of nftables: %w", networksTable, err)
		}
	}
	w.abandonUsers()
	if err := w.keeper.Release(); err != nil {
		return fmt.Errorf("removing the table %s: %w", keep.Table, err)
	}
	return nil
}

// Lines are n's elements, and the rules of its own chains.
func (w *Writer) Lines(n firewall.Network) []firewall.Line {
	shares, err := w.render(n, n.Rules())
	if err != nil {
		return nil
	}
	var lines []firewall.Line
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		if s := shares[f]; s != nil {
			for _, e := range s.elements {
				lines = append(lines, e.line(f))
			}
			for _, part := range s.sections {
				if part.own {
					lines = append(lines, part.chains[0].lines(f)...)
				}
			}
		}
	}
	return lines
}

// Works says what the kernel lacks that the tables need, if so. It leaves nothing behind.
func Works() error {
	f := families[firewall.IPv4]
	s, err := nfnetlink.Open()
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	t := newTable(f, networksTable+"_try")
	all := &share{sections: []section{f.filter(), f.translation(), f.translated(24), f.translatedDev(24), f.redirection(), treatment{ports: firewall.PortRange{Start: 1024, End: 65535}}.section(f)}}
	messages, err := t.messages(t.exchange(nil, []*share{all}))
	if err == nil {
		err = s.Commit(append(messages, t.place.DeleteTable()), 0, func(int, netlink.Message) {})
	}
	if err != nil {
		return explain(err)
	}
	return nil
}

// Stands reports whether tables of this form are there, by whomever.
func Stands() bool {
	s, err := nfnetlink.Open()
	if err != nil {
		return false
	}
	defer func() { _ = s.Close() }()
	for _, f := range families {
		if there, err := s.HasTable(f.number, networksTable); err == nil && there {
			return true
		}
	}
	return false
}

// Conditions is firewall.Writer's.
func (w *Writer) Conditions(ctx context.Context, networks []firewall.Network) ([]firewall.Condition, error) {
	var found []firewall.Condition
	if lacks := w.lacks(networks); lacks != nil {
		found = append(found, *lacks)
	}
	if w.others == nil {
		return found, nil
	}
	others, err := w.others.Conditions(ctx, w.lastForeign(), networks)
	return append(found, others...), err
}

// lacks is the condition of a kernel without what the tables need, nil for others.
func (w *Writer) lacks(networks []firewall.Network) *firewall.Condition {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stands {
		return nil
	}
	err := Works()
	if err == nil {
		return nil
	}
	c := &firewall.Condition{Kind: firewall.KindNoNFTables, Summary: "networks of mode nat, route and isolated can't start: " + err.Error(), Evidence: "firewall_backend = \"nftables\""}
	for _, n := range networks {
		if n.Mode.Filtered() {
			c.Bridges = append(c.Bridges, n.Bridge)
		}
	}
	return c
}

// RemoveLeftovers is firewall.Writer's.
func (w *Writer) RemoveLeftovers(ctx context.Context, n firewall.Network) error {
	if w.others == nil {
		return nil
	}
	return w.others.RemoveLeftovers(ctx, n)
}

// commentSize is how long nft(8) has a comment be, in bytes.
const commentSize = 128

// commentOf is the comment of a network's elements: its name, as far as nft(8) can read it.
func commentOf(n firewall.Network) string {
	text := strings.Map(func(r rune) rune {
		if r == '"' || r == '\\' || !unicode.IsPrint(r) {
			return '_'
		}
		return r
	}, n.Label())
	return strings.ToValidUTF8(text[:min(len(text), commentSize-1)], "")
}
