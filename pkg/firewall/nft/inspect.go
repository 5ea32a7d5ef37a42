package nft

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// damage is how the kernel's tables differ from what was written.
type damage struct {
	wanted, gone int  // tables
	flushed      bool // a table has no rule any more
	chains       []string
	missing      []firewall.Line
	altered      bool // something is there that should not be, or is otherwise
}

func (d *damage) any() bool {
	return d.gone > 0 || d.flushed || len(d.chains)+len(d.missing) > 0 || d.altered
}

// cause is what most likely made the difference.
func (d *damage) cause() firewall.Cause {
	switch {
	case !d.any():
		return ""
	case d.gone > 0 && d.gone == d.wanted:
		return firewall.CauseFlush
	case d.gone > 0 || d.flushed:
		return firewall.CauseTableFlush
	case len(d.chains) > 0:
		return firewall.CauseChainDeleted
	case len(d.missing) > 0:
		return firewall.CauseRulesDeleted
	}
	return firewall.CauseReordered
}

// inspect compares the tables with what was written.
func (w *Writer) inspect() (damage, error) {
	var d damage
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		if t := w.tables[f]; len(t.sections) > 0 {
			if err := t.inspect(w.socket, f, &d); err != nil {
				return d, err
			}
		}
	}
	return d, nil
}

// inspect compares the table with what was written.
func (t *table) inspect(s *nfnetlink.Socket, f firewall.Family, d *damage) error {
	d.wanted++
	flags, err := s.TableFlags(t.place)
	switch {
	case err == nil:
		d.altered = d.altered || flags != 0
		err = t.inspectChains(s, f, d)
	case errors.Is(err, unix.ENOENT):
		d.gone++
		_, chains := t.wanted()
		d.chains = append(d.chains, chainNames(chains)...)
		err = nil
	}
	return errors.Join(err, t.inspectSets(s, f, d))
}

// inspectChains compares chains and what stands in them.
func (t *table) inspectChains(s *nfnetlink.Socket, f firewall.Family, d *damage) error {
	there, err := s.Chains(t.place)
	if err != nil {
		return err
	}
	rules, err := t.read(s, "")
	if err != nil {
		return err
	}
	_, chains := t.wanted()
	for _, c := range chains {
		found, ok := there[c.name]
		if !ok {
			d.chains = append(d.chains, c.name)
		} else if found.Base && found.Policy != nfAccept || found.Base != (c.hook != nil) {
			d.altered = true
		}
		d.missing = append(d.missing, c.lines(f)[:max(len(c.clauses)-len(rules[c.name]), 0)]...)
		d.altered = d.altered || t.rules == nil || !slices.EqualFunc(t.rules[c.name], rules[c.name], sameRule)
	}
	d.altered = d.altered || len(there) != len(chains)
	d.flushed = d.flushed || len(rules) == 0
	return nil
}

func sameRule(a, b nfnetlink.Rule) bool {
	return a.Handle == b.Handle && a.Userdata == b.Userdata && bytes.Equal(a.Expressions, b.Expressions)
}

// inspectSets compares sets and their elements.
func (t *table) inspectSets(s *nfnetlink.Socket, f firewall.Family, d *damage) error {
	there := map[element]bool{}
	sets, _ := t.wanted()
	for _, set := range sets {
		found, err := s.Elements(t.number, networksTable, set.Name)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		for _, e := range found {
			there[readElement(set.Name, e)] = true
		}
	}
	missing := make([]element, 0, len(t.elements))
	for e := range t.elements {
		if len(there) == 0 { // as after a flush
			missing = append(missing, e)
			continue
		}
		for _, m := range e.messages() {
			bare := readElement(e.set, m)
			if !there[bare] && !m.Ends {
				missing = append(missing, e)
			}
			d.altered = d.altered || !there[bare]
			delete(there, bare)
		}
	}
	d.altered = d.altered || len(missing) > 0 || len(there) > 0
	slices.SortFunc(missing, compareElements)
	for _, e := range missing {
		d.missing = append(d.missing, e.line(f))
	}
	return nil
}

// readElement is an element as the kernel tells it: without what it does not look at. The
// end of an interval of one field is one that accepts nothing.
func readElement(set string, k nfnetlink.Element) element {
	e := element{set: set, from: string(k.Key), to: string(k.KeyEnd), value: string(k.Value)}
	if k.Ends {
		e.to = "ends"
		return e
	}
	if k.Verdict == nil {
		return e
	}
	switch code := int32(binary.BigEndian.Uint32(k.Verdict)); {
	case code == unix.NFT_GOTO || code == unix.NFT_JUMP:
		e.returns = code == unix.NFT_JUMP
		e.verdict = strings.TrimRight(string(k.Chain), "\x00")
	case code == nfAccept:
		e.verdict = accepted
	default:
		e.verdict = "another"
	}
	return e
}

// Complete is firewall.Writer's. What differs in any way is made anew as a whole, in one
// transaction.
func (w *Writer) Complete(_ context.Context, desired firewall.Desired, afresh bool) (firewall.Report, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(desired) == 0 {
		return firewall.Report{}, nil
	}
	if err := w.connect(); err != nil {
		return firewall.Report{}, explain(err)
	}
	w.hold(desired.After(nil))
	if afresh {
		w.known = 0
	}
	d, err := w.lacking(desired)
	if err != nil || !d.any() {
		return firewall.Report{}, err
	}
	report := firewall.Report{Cause: d.cause(), Missing: d.missing, Chains: d.chains}
	slices.Sort(report.Chains)
	report.Chains = slices.Compact(report.Chains)
	if err := w.rewrite(desired, nil); err != nil {
		return report, explain(err)
	}
	return report, nil
}

// lacking is what is amiss. Of what a former process has written it is known what should
// be there at least.
func (w *Writer) lacking(desired firewall.Desired) (d damage, err error) {
	if w.stands {
		return w.differs()
	}
	for _, t := range w.tables {
		t.forget()
	}
	for _, e := range desired {
		shares, err := w.render(e.Network, e.Rules)
		if err != nil {
			return d, err
		}
		for f, s := range shares {
			w.tables[f].exchange(nil, []*share{s})
		}
	}
	d, err = w.inspect()
	d.altered = false
	return d, err
}

// lines are the chain's rules for people.
func (c stage) lines(f firewall.Family) (all []firewall.Line) {
	for _, r := range c.clauses {
		all = append(all, firewall.Line{Family: f, Table: networksTable, Chain: c.name, Args: r.text, Form: firewall.FormRule})
	}
	return all
}
