package firewall

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// DefaultAudit is how often a firewall that tells nothing is looked at.
const DefaultAudit = 5 * time.Second

// Config is what New needs to know. The zero value is a good one.
type Config struct {
	// Audit is the time between two looks at what no notification tells about,
	// while Watch runs; 0 is DefaultAudit.
	Audit time.Duration
	// Flows has connections end with the forwards that led them, and as rules come to
	// refuse them; nil: they go on.
	Flows Flows
	// Offload has established connections go past the rules; nil: none do. It is the
	// Firewall's then.
	Offload Offload
	// Spans keeps networks that span hosts apart; nil: none can. It is the Firewall's then.
	Spans Spans
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Flows is what a Firewall asks of the kernel's table of connections.
type Flows interface {
	// Cut ends what goes on by forwards and not by one of stay as well: the kernel knows the
	// connections no more that were led by one of them.
	Cut(forwards, stay []Forward) error
	// End ends the connections for which ends is true: the kernel knows them no more.
	End(ends func(*Flow) bool) error
	// Count is what each of some groups of forwards leads now.
	Count(groups [][]Forward) ([]Tally, error)
	// Offloaded is how many connections go past the rules.
	Offloaded() (int, error)
}

// Tally is what forwards lead now.
type Tally struct {
	Connections int // under way
	// Packets and Bytes are those of them, of both directions, where the kernel counts them
	// (net.netfilter.nf_conntrack_acct), which Counted tells.
	Packets, Bytes uint64
	Counted        bool
}

// Offload is what a Firewall asks of whom has established connections go past the rules;
// package offload is the real one. Its methods may be called concurrently.
type Offload interface {
	// Set says which networks there are, which are not to be altered. Those whose Offload says
	// so and whose packets are forwarded have it. What could not be made true Err tells, and
	// is tried again.
	Set(networks iter.Seq[*Network])
	// Suspend has all connections pass the rules again, from now on until Set.
	Suspend() error
	// Err is why connections are not offloaded that should be; nil if they are.
	Err() error
	// Purge removes all traces, also those of a former process.
	Purge() error
	Close() error
}

// Firewall keeps networks' rules in the kernel, by its Writer. It knows which
// rules shall stand. All methods may be called concurrently; changes that wait for
// each other become one.
type Firewall struct {
	writer  Writer
	flows   Flows
	offload Offload // nil: none
	spans   Spans   // nil: none
	audit   time.Duration
	log     *slog.Logger
	zones   zones
	queue   queue

	mu      sync.Mutex // held while the writer works, which may take long
	desired Desired    // guarded by mu
	// redirecting is where a former process may have led queries; until it is settled, by Settle.
	// Guarded by mu.
	redirecting []netip.AddrPort
	settled     bool

	counting sync.Mutex // held for moments
	stats    Stats      // guarded by counting
}

// New returns a Firewall that writes by w, which is the Firewall's then. It makes
// no rule.
func New(w Writer, cfg Config) *Firewall {
	f := &Firewall{writer: w, flows: cfg.Flows, offload: cfg.Offload, spans: cfg.Spans, audit: cfg.Audit, log: cfg.Logger}
	if f.audit <= 0 {
		f.audit = DefaultAudit
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	return f
}

// Close closes the writer and gives back what the calls since New have opened. It
// touches no rule.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	errs := []error{f.writer.Close(), f.zones.close()}
	if f.offload != nil {
		errs = append(errs, f.offload.Close())
	}
	if f.spans != nil {
		errs = append(errs, f.spans.Close())
	}
	return errors.Join(errs...)
}

// Settle says that all networks that a former process left were given to Adopt, and then to Set or
// Delete.
func (f *Firewall) Settle() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	former := make(map[netip.AddrPort]bool)
	for _, at := range f.redirecting {
		former[at] = true
	}
	for n := range f.desired.After(nil) {
		for _, at := range n.DNS {
			delete(former, at)
		}
	}
	f.redirecting, f.settled = nil, true
	if len(former) > 0 {
		f.end([]func(*Flow) bool{func(flow *Flow) bool { return flow.Led && former[netip.AddrPortFrom(flow.Destination, flow.Port)] }})
	}
	if f.spans == nil {
		return nil
	}
	return f.spans.Settle()
}

// Rules are those that Set places for n, as they are written.
func (f *Firewall) Rules(n Network) []Line { return f.writer.Lines(n) }

// Set makes the kernel hold exactly one copy of n's rules, in order, with all that
// leads to them. What is not complete goes before the rules of others, so the newest
// network stands first. Rules that Set or Adopt knows of for the same bridge and n
// does not have are deleted in the same transaction, and so are those that a
// libvirtd left for the bridge. When nothing is to do, nothing is executed but a
// listing, and under nf_tables not even that if nothing has changed since the last
// one. Sets and Deletes that wait for one that is under way are carried out
// together.
//
// On an error the rules that stood before are put back.
//
// Where firewalld runs, the bridge goes into its zone first: n.Zone, or
// libvirt's. Only for n.Zone a failure of that is an error.
func (f *Firewall) Set(ctx context.Context, n Network) error {
	if err := n.check(); err != nil {
		return fmt.Errorf("firewall of bridge %q: %w", n.Bridge, err)
	}
	if err := f.zones.bind(ctx, n, f.log); err != nil {
		return fmt.Errorf("setting the firewall of bridge %q: %w", n.Bridge, err)
	}
	if err := f.submit(&request{ctx: ctx, network: n, set: true}); err != nil {
		return fmt.Errorf("setting the firewall of bridge %q: %w", n.Bridge, err)
	}
	return nil
}

// Adopt says that n's rules were placed by a former process, so that a Set with
// other intent replaces them, Delete and Purge remove them, and a repair puts
// them back. It touches nothing, and need not be true.
func (f *Firewall) Adopt(n Network) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.desired.adopt(n)
	if !f.settled {
		f.redirecting = append(f.redirecting, n.DNS...)
	}
}

// Delete removes every copy of n's rules, and of those that Set or Adopt knows
// of for the same bridge. What leads to them stays, as with libvirt. Rules that
// are not there are no error. Both families are tried; their errors are joined.
// Where firewalld runs, the bridge leaves its zone.
func (f *Firewall) Delete(ctx context.Context, n Network) error {
	if err := f.submit(&request{ctx: ctx, network: n}); err != nil {
		return fmt.Errorf("deleting the firewall of bridge %q: %w", n.Bridge, err)
	}
	f.zones.unbind(ctx, n, f.log)
	return nil
}

// Purge removes all that the writer has made, and with it the rules that Set or
// Adopt knows of. If rules of somebody else are among them, or lead to one, it
// changes nothing in either family and the error names what it found. Nothing to
// remove is no error.
func (f *Firewall) Purge(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.writer.Purge(ctx, f.desired); err != nil {
		return err
	}
	if f.offload != nil {
		if err := f.offload.Purge(); err != nil {
			return fmt.Errorf("removing the table of offloaded connections: %w", err)
		}
	}
	if f.spans != nil {
		if err := f.spans.Purge(); err != nil {
			return fmt.Errorf("removing the tables of networks that span hosts: %w", err)
		}
	}
	for _, e := range f.desired {
		f.zones.unbind(ctx, e.Network, f.log)
	}
	f.desired = nil
	return nil
}

// RemoveLeftovers removes the rules that a libvirtd with another firewall than the
// writer's left for n's bridge, which Set does not see. The network's own rules
// must stand already, so that nothing passes unfiltered in between.
func (f *Firewall) RemoveLeftovers(ctx context.Context, n Network) error {
	return f.writer.RemoveLeftovers(ctx, n)
}

// Conditions looks for what cuts the guests of the networks known to Set and
// Adopt off, and of others, which have no rules: rules and policies in iptables of both variants and in any table of
// nftables, and settings of the kernel. Without the program nft the tables of
// nftables are left out. It changes nothing, and executes nothing either as long
// as nftables says that nobody else has changed a rule since the last time and
// there are no legacy rules. What it could not look at is in the error, which
// comes with the conditions that were found all the same.
func (f *Firewall) Conditions(ctx context.Context, others ...Network) ([]Condition, error) {
	found, err := f.writer.Conditions(ctx, append(f.networks(), others...))
	return distinct(append(found, f.offloadCondition()...)), err
}

// Connections is what each of some groups of forwards leads now, nothing without
// Config.Flows.
func (f *Firewall) Connections(groups [][]Forward) ([]Tally, error) {
	if f.flows == nil {
		return make([]Tally, len(groups)), nil
	}
	return f.flows.Count(groups)
}

// Offloaded is how many connections go past the rules.
func (f *Firewall) Offloaded() (int, error) {
	if f.offload == nil || f.flows == nil {
		return 0, nil
	}
	return f.flows.Offloaded()
}

// offloadCondition says that connections are not offloaded that should be; nil if they are.
func (f *Firewall) offloadCondition() []Condition {
	if f.offload == nil {
		return nil
	}
	err := f.offload.Err()
	if err == nil {
		return nil
	}
	return []Condition{{
		Kind: KindNoOffload, Harmless: true,
		Summary:  fmt.Sprintf("established connections are not offloaded, all pass the rules: %v", err),
		Evidence: "flow_offload, <vnetd:offload>",
		Remedy:   "modprobe nft_flow_offload && modprobe nf_flow_table_inet",
	}}
}

// Counts are what n's rules have met since they were last written, in the order of
// Policy.Rules: connections, as they began, of networks that refuse some or have some
// logged. Peers' are in the order of Peers: of connections that those opened, as they began.
func (f *Firewall) Counts(ctx context.Context, n Network) (rules, peers []Count, err error) {
	counts, err := f.writer.Counts(ctx, n)
	if err != nil {
		return nil, nil, fmt.Errorf("counting what the rules of bridge %q have met: %w", n.Bridge, err)
	}
	sum := func(all []Rule) (c Count) {
		for _, r := range onceEach(all) {
			c.Packets, c.Bytes = c.Packets+counts[r].Packets, c.Bytes+counts[r].Bytes
		}
		return c
	}
	for i := range n.Policy.Rules {
		rules = append(rules, sum(n.decided(&n.Policy.Rules[i])))
	}
	for i := range n.Peers {
		alone := n
		alone.Peers, alone.Policy = n.Peers[i:i+1], Policy{}
		peers = append(peers, sum(slices.DeleteFunc(alone.policyRules(), func(r Rule) bool { return r.Path != Admission || r.Replies })))
	}
	return rules, peers, nil
}

// networks are those known, the oldest first.
func (f *Firewall) networks() []Network {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []Network
	for _, e := range f.desired {
		out = append(out, e.Network)
	}
	return out
}
