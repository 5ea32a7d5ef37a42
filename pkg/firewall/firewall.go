package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Firewall keeps networks' rules in the kernel, by its Writer. It knows which
// rules shall stand. All methods may be called concurrently; changes that wait for
// each other become one.
type Firewall struct {
	writer Writer
	audit  time.Duration
	log    *slog.Logger
	zones  zones
	queue  queue

	mu      sync.Mutex // held while the writer works, which may take long
	desired Desired    // guarded by mu

	counting sync.Mutex // held for moments
	stats    Stats      // guarded by counting
}

// New returns a Firewall that writes by w, which is the Firewall's then. It makes
// no rule.
func New(w Writer, cfg Config) *Firewall {
	f := &Firewall{writer: w, audit: cfg.Audit, log: cfg.Logger}
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
	return errors.Join(f.writer.Close(), f.zones.close())
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
	return distinct(found), err
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
