package iptables

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// Config is what New needs to know. The zero value is a good one.
type Config struct {
	// ChainPrefix is what the chain names start with; "" is DefaultPrefix. With
	// another one a libvirtd beside vnetd has chains of its own.
	ChainPrefix string
	// IPTables and IP6Tables are names or paths of the programs, with "-save"
	// and "-restore" appended for their companions; "" is "iptables" and
	// "ip6tables". "iptables-nft" or "iptables-legacy" choose a variant.
	IPTables, IP6Tables string
	// LibvirtExactRules leaves out the rules by which vnetd differs from libvirt:
	// see firewall.AskOutbound.
	LibvirtExactRules bool
	// DockerUserAccept has the chain DOCKER-USER, where Docker made one, lead to
	// the networks' chains as well, and accept what open networks' guests send
	// and get: Docker's own chains may stand before the networks'.
	DockerUserAccept bool
	// Keeper is shared with other writers, whoever made it releases it; nil: the writer
	// has one of its own.
	Keeper *keep.Keeper
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Writer writes rules into the kernel of the network namespace in which it was
// made. What the kernel holds it remembers only as long as nftables says that
// nothing has changed.
type Writer struct {
	mu     sync.Mutex
	kernel // its cache and tools are guarded by mu
	keeper *keep.Keeper
	shared bool // keeper is another's

	snapshots snapshots

	heardMu sync.Mutex
	made    []nfnetlink.Generation // that Watch has heard of since Others was called; guarded by heardMu
}

var _ firewall.Writer = (*Writer)(nil)

// New finds iptables and ip6tables and tries them. It fails only if the prefix
// makes no chain name. A family that does not work, for want of its program, of
// IPv6 in the kernel or of a table that iptables can read, is a warning and one
// of Conditions: it is tried again when a network has rules for it, and only that
// network fails. New makes no chain and no rule.
func New(ctx context.Context, cfg Config) (*Writer, error) {
	w := &Writer{kernel: kernel{log: cfg.Logger, options: options{prefix: orDefault(cfg.ChainPrefix, DefaultPrefix), exact: cfg.LibvirtExactRules, docker: cfg.DockerUserAccept}}}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	if w.keeper, w.shared = cfg.Keeper, cfg.Keeper != nil; !w.shared {
		w.keeper = new(keep.Keeper)
	}
	// XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, 29 with the closing
	// NUL, bounds a chain's name; ours add three characters.
	if !regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,24}$`).MatchString(w.options.prefix) {
		return nil, fmt.Errorf("chain prefix %q: 1 to 25 letters, digits, '_', '.' or '-' are needed", w.options.prefix)
	}
	w.tools = newTools(cfg.IPTables, cfg.IP6Tables)
	for _, t := range w.tools {
		t.detect(ctx)
	}
	w.report(ctx)
	return w, nil
}

// report logs what was found.
func (w *Writer) report(ctx context.Context) {
	for _, t := range w.tools {
		if t.missing != nil {
			w.log.Warn("no firewall for this family", "family", t.family, "error", t.missing)
			continue
		}
		w.log.Info("firewall found", "family", t.family, "program", t.path, "variant", t.variant)
		if other, holds := t.rival(ctx); holds {
			w.log.Warn("rules exist in the other variant of iptables as well; packets must pass both",
				"family", t.family, "variant", t.variant, "other", other)
		}
	}
	if w.tools[0].missing == nil && w.tools[1].missing == nil && w.tools[0].variant != w.tools[1].variant {
		w.log.Warn("iptables and ip6tables are of different variants", "ipv4", w.tools[0].variant, "ipv6", w.tools[1].variant)
	}
}

// Close gives back what New and the calls since have opened. It touches no rule.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.cache.close()
	if !w.shared {
		err = errors.Join(w.keeper.Release(), err)
	}
	return err
}

// Works says which family can't be used, and why. A kernel without IPv6 needs none.
func (w *Writer) Works() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	var faults []error
	for _, t := range w.tools {
		if !errors.Is(t.missing, errNoIPv6) {
			faults = append(faults, t.missing)
		}
	}
	return errors.Join(faults...)
}

// Lines are n's rules as iptables-save prints them.
func (w *Writer) Lines(n firewall.Network) []firewall.Line { return w.options.lines(n.Rules()) }

// counted are the paths of which rules' counts are told.
var counted = []firewall.Path{firewall.Leaving, firewall.Entering, firewall.Asking, firewall.Admission}

// Counts is firewall.Writer's.
func (w *Writer) Counts(ctx context.Context, n firewall.Network) (map[firewall.Rule]firewall.Count, error) {
	w.mu.Lock()
	var tools []tool
	for _, t := range w.tools {
		tools = append(tools, *t)
	}
	w.mu.Unlock()
	rules := map[firewall.Line]firewall.Rule{}
	for _, r := range n.Rules() {
		if slices.Contains(counted, r.Path) {
			rules[w.options.lines([]firewall.Rule{r})[0]] = r
		}
	}
	counts := map[firewall.Rule]firewall.Count{}
	for _, t := range tools {
		if len(rules) == 0 || t.missing != nil {
			continue
		}
		out, err := run(ctx, "", t.path+"-save", "-c", "-t", tableFilter)
		if err != nil {
			return nil, fmt.Errorf("listing the %s rules: %w", t.family, err)
		}
		for line, count := range parseCounts(out, t.family) {
			if r, ours := rules[line]; ours {
				counts[r] = count
			}
		}
	}
	return counts, nil
}

// parseCounts reads what iptables-save tells with counts of the table filter. Of rules
// that stand twice the last one counts.
func parseCounts(text string, f firewall.Family) map[firewall.Line]firewall.Count {
	all := map[firewall.Line]firewall.Count{}
	for line := range strings.Lines(text) {
		var c firewall.Count
		counts, rule, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "] -A ")
		if _, err := fmt.Sscanf(counts, "[%d:%d", &c.Packets, &c.Bytes); err != nil || !ok {
			continue
		}
		chain, args, _ := strings.Cut(rule, " ")
		all[firewall.Line{Family: f, Table: tableFilter, Chain: chain, Args: lowerMAC(args)}] = c
	}
	return all
}

// Apply is firewall.Writer's. The error is a *RestoreError where iptables-restore
// refused a rule. A failing CHECKSUM rule is only logged, as with libvirt: kernels
// without that target exist, and DHCP clients that mind are rare.
func (w *Writer) Apply(ctx context.Context, desired firewall.Desired, changes []firewall.Change) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	asked := w.options.changes(desired, changes)
	sets := slices.ContainsFunc(changes, func(c firewall.Change) bool { return !c.Remove })
	// Where no network with rules is left, Docker's chain has nowhere to lead.
	left := func(e firewall.Entry) bool { return len(e.Rules) > 0 && !changed(e, changes) }
	if w.options.docker && !sets && !slices.ContainsFunc(desired, left) {
		asked = append(asked, change{remove: w.usable(dockerJumps(allJumps(w.options.prefix)))})
	}
	back, err := w.apply(ctx, asked)
	if err != nil {
		if sets || len(changes) > 1 {
			err = errors.Join(err, w.undo(ctx, back))
		}
		return err
	}
	w.hold(desired.After(changes))
	return nil
}

// changed reports whether changes are about an entry's bridge.
func changed(e firewall.Entry, changes []firewall.Change) bool {
	return slices.ContainsFunc(changes, func(c firewall.Change) bool { return c.Network.Bridge == e.Network.Bridge })
}

// hold sees to it that connections that the kernel must know outlive a flush, from the
// first network on that is tracked, and that guests are kept from loopback addresses then.
// On a kernel that can't do it they are not; where another program has a table of the name,
// once that is gone. The caller holds mu.
func (w *Writer) hold(networks iter.Seq[*firewall.Network]) {
	for _, family := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		if w.keeper.Holds(family, networks) {
			continue
		}
		before := w.cache.refresh()
		done, err := w.keeper.Hold(family, networks)
		if err != nil {
			w.log.Warn("connections of guests may be lost when rules are flushed", "family", family, "table", keep.Table, "error", err)
		}
		if done {
			w.cache.settle(before, 1)
		}
	}
}

// usable are the lines of the families that can be used.
func (w *Writer) usable(lines []firewall.Line) []firewall.Line {
	var out []firewall.Line
	for _, t := range w.tools {
		if t.missing == nil {
			out = append(out, ofFamily(t.family, lines)...)
		}
	}
	return out
}

// Complete is firewall.Writer's.
func (w *Writer) Complete(ctx context.Context, desired firewall.Desired, afresh bool) (firewall.Report, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if afresh {
		w.cache.forget()
	}
	w.hold(desired.After(nil))
	if w.cache.refresh(); w.cache.whole || len(desired) == 0 {
		return firewall.Report{}, nil
	}
	changes := w.options.completion(desired)
	var placed []firewall.Line
	for _, c := range changes {
		placed = append(placed, c.place...)
	}
	lines := w.usable(placed)
	if len(lines) == 0 {
		return firewall.Report{}, nil
	}
	found := map[firewall.Family]*diff{firewall.IPv4: {}, firewall.IPv6: {}}
	_, err := w.transact(ctx, transaction{lines: lines, plan: func(l listing, f firewall.Family) (*edit, error) {
		d := compare(l, f, w.options, lines)
		e := plan(l, f, w.options, changes)
		if !e.empty() {
			d.changed = true
			*found[f] = d
		}
		return e, nil
	}})
	if err == nil {
		w.cache.whole = w.cache.id != 0 && w.tracked()
	}
	return summary(w.options.prefix, found[firewall.IPv4], found[firewall.IPv6]), err
}

// tracked reports whether generations count the changes of all families in use.
func (w *Writer) tracked() bool {
	return !slices.ContainsFunc(w.tools, func(t *tool) bool { return t.missing == nil && t.variant != variantNFT })
}

// changes are those that networks ask for, in lines.
func (o options) changes(desired firewall.Desired, changes []firewall.Change) []change {
	var out []change
	for _, c := range changes {
		placed := setOf(c.Rules)
		gone := slices.DeleteFunc(slices.Clone(c.Known), func(r firewall.Rule) bool { return placed[r] })
		lines := change{remove: o.lines(gone), place: o.lines(c.Rules), bridge: c.Network.Bridge}
		if !c.Remove {
			lines.network, lines.others = c.Network, desired
		}
		out = append(out, lines)
	}
	return out
}

// completion makes every network complete again, the newest last.
func (o options) completion(desired firewall.Desired) []change {
	var out []change
	for _, e := range desired {
		out = append(out, change{place: o.lines(e.Rules)})
	}
	return out
}

// known are the lines of all networks in any form.
func (o options) known(desired firewall.Desired) []firewall.Line {
	var out []firewall.Line
	for _, e := range desired {
		out = append(out, o.lines(e.All())...)
	}
	return out
}
