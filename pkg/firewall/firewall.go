package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"sync"
	"time"
)

// undoTime is how long a failed Set may take to put the former rules back.
const undoTime = 15 * time.Second

// Config is what New needs to know. The zero value is a good one.
type Config struct {
	// ChainPrefix is what the chain names start with; "" is DefaultPrefix. With
	// another one a libvirtd beside vnetd has chains of its own.
	ChainPrefix string
	// IPTables and IP6Tables are names or paths of the programs, with "-save"
	// and "-restore" appended for their companions; "" is "iptables" and
	// "ip6tables". "iptables-nft" or "iptables-legacy" choose a variant.
	IPTables, IP6Tables string
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Firewall writes networks' rules into the kernel of the network namespace in
// which it was made. It keeps no copy of what the kernel holds, only what it
// placed itself, by bridge. All methods may be called concurrently; changes are
// made one after the other.
type Firewall struct {
	prefix string
	log    *slog.Logger
	tools  []*tool // IPv4, IPv6

	mu     sync.Mutex
	placed map[string][]Rule // by bridge; guarded by mu
}

// New finds iptables and ip6tables and tries them. It fails if iptables does
// not run, or if the prefix makes no chain name. A family that does not work,
// for want of ip6tables, of IPv6 in the kernel or of a table that iptables can
// read, is a warning: it is tried again when a network has rules for it, and
// only that network fails. New makes no chain and no rule.
func New(ctx context.Context, cfg Config) (*Firewall, error) {
	f := &Firewall{prefix: cfg.ChainPrefix, log: cfg.Logger, placed: map[string][]Rule{}}
	if f.prefix == "" {
		f.prefix = DefaultPrefix
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	// XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, 29 with the closing
	// NUL, bounds a chain's name; ours add three characters.
	if !regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,24}$`).MatchString(f.prefix) {
		return nil, fmt.Errorf("chain prefix %q: 1 to 25 letters, digits, '_', '.' or '-' are needed", f.prefix)
	}
	f.tools = []*tool{
		{family: IPv4, command: orDefault(cfg.IPTables, "iptables")},
		{family: IPv6, command: orDefault(cfg.IP6Tables, "ip6tables")},
	}
	for _, t := range f.tools {
		t.detect(ctx)
	}
	if t := f.tools[0]; t.variant == "" {
		return nil, t.missing
	}
	f.report(ctx)
	return f, nil
}

// orDefault is s, or def for an empty s.
func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// report logs what was found.
func (f *Firewall) report(ctx context.Context) {
	for _, t := range f.tools {
		if t.missing != nil {
			f.log.Warn("no firewall for this family, networks that need it will fail", "family", t.family, "error", t.missing)
			continue
		}
		f.log.Info("firewall found", "family", t.family, "program", t.path, "variant", t.variant)
		if other, holds := t.rival(ctx); holds {
			f.log.Warn("rules exist in the other variant of iptables as well; packets must pass both",
				"family", t.family, "variant", t.variant, "other", other)
		}
	}
	if f.tools[1].missing == nil && f.tools[0].variant != f.tools[1].variant {
		f.log.Warn("iptables and ip6tables are of different variants", "ipv4", f.tools[0].variant, "ipv6", f.tools[1].variant)
	}
}

// Set makes the kernel hold exactly one copy of n's rules, in order, with the
// chains and jumps that lead to them. What is not complete goes to the head of
// its chain, so the newest network stands first. Rules that Set or Adopt knows
// of for the same bridge and n does not have are deleted in the same
// transaction. When nothing is to do, nothing is executed but the listing.
//
// On an error the rules that stood before are put back. The error is a
// *RestoreError where iptables-restore refused a rule. A failing CHECKSUM rule
// is only logged, as with libvirt: kernels without that target exist, and DHCP
// clients that mind are rare.
func (f *Firewall) Set(ctx context.Context, n Network) error {
	if err := n.check(); err != nil {
		return fmt.Errorf("firewall of bridge %q: %w", n.Bridge, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := Render(n, f.prefix)
	back, err := f.apply(ctx, []change{{remove: f.placed[n.Bridge], place: rules}})
	if err != nil {
		err = errors.Join(err, f.undo(ctx, back))
		return fmt.Errorf("setting the firewall of bridge %q: %w", n.Bridge, err)
	}
	f.remember(n.Bridge, rules)
	return nil
}

// Adopt says that n's rules were placed by a former process, so that a Set with
// other intent replaces them and Delete and Purge remove them. It touches
// nothing, and need not be true.
func (f *Firewall) Adopt(n Network) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.remember(n.Bridge, union(f.placed[n.Bridge], Render(n, f.prefix)))
}

// Delete removes every copy of n's rules, and of those that Set or Adopt knows
// of for the same bridge. Chains and jumps stay, as with libvirt. Rules that
// are not there are no error. Both families are tried; their errors are joined.
func (f *Firewall) Delete(ctx context.Context, n Network) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	rules := union(f.placed[n.Bridge], Render(n, f.prefix))
	if _, err := f.apply(ctx, []change{{remove: rules}}); err != nil {
		return fmt.Errorf("deleting the firewall of bridge %q: %w", n.Bridge, err)
	}
	f.remember(n.Bridge, nil)
	return nil
}

// remember notes what stands for a bridge. The caller holds mu.
func (f *Firewall) remember(bridge string, rules []Rule) {
	if len(rules) == 0 {
		delete(f.placed, bridge)
		return
	}
	f.placed[bridge] = rules
}

// union is a followed by what only b has.
func union(a, b []Rule) []Rule {
	out := slices.Clone(a)
	for _, r := range b {
		if !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	return out
}

// apply carries out the changes of any number of networks, with one transaction
// per family, and returns the changes that put back what it may have altered.
// Both families are tried, side by side; errors are joined. The caller holds mu.
func (f *Firewall) apply(ctx context.Context, changes []change) ([]change, error) {
	var rules []Rule
	for _, c := range changes {
		rules = append(append(rules, c.remove...), c.place...)
	}
	if len(rules) == 0 {
		return nil, nil
	}
	ways, faults := make([]*change, len(f.tools)), make([]error, len(f.tools))
	var wg sync.WaitGroup
	for i, t := range f.tools {
		wg.Go(func() { ways[i], faults[i] = f.applyFamily(ctx, t, rules, changes) })
	}
	wg.Wait()
	var back []change
	for _, way := range ways {
		if way != nil {
			back = append(back, *way)
		}
	}
	return back, errors.Join(faults...)
}

// applyFamily is apply for one family; rules are those of the changes. A family
// that can't be used, or a table of it that fails, matters only where the
// changes have rules.
func (f *Firewall) applyFamily(ctx context.Context, t *tool, rules []Rule, changes []change) (*change, error) {
	needed := len(ofFamily(t.family, rules)) > 0
	if t.missing != nil && needed {
		t.detect(ctx)
	}
	switch {
	case t.missing != nil && needed:
		return nil, t.missing
	case t.missing != nil:
		return nil, nil
	}
	back, err := t.commit(ctx, rules, func(l listing) (*edit, error) {
		return plan(l, t.family, f.prefix, changes), nil
	})
	if err != nil && ctx.Err() == nil && (!needed || dispensable(err, t.family, rules)) {
		f.log.Warn("firewall incomplete, going on without", "family", t.family, "error", err)
		err = nil
	}
	return back, err
}

// dispensable tells whether networks work without what failed: they have no
// rule in the table, or the CHECKSUM rule alone. Tables are written in an order
// in which mangle is the last, so its failure leaves nothing else undone.
func dispensable(err error, f Family, rules []Rule) bool {
	var e *RestoreError
	if !errors.As(err, &e) || e.Table == "" {
		return false
	}
	return e.Table == tableMangle || !slices.ContainsFunc(rules, func(r Rule) bool {
		return r.Family == f && r.Table == e.Table
	})
}

// undo takes the way back that apply returned. Tables that failed are as they
// were; those that were committed before them are not. It runs even if ctx is
// over. The caller holds mu.
func (f *Firewall) undo(ctx context.Context, back []change) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	if _, err := f.apply(ctx, back); err != nil {
		return fmt.Errorf("putting the former rules back: %w", err)
	}
	return nil
}
