package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"
)

// DefaultAudit is how often a firewall that tells nothing is looked at.
const DefaultAudit = 5 * time.Second

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
	// see Guards.
	LibvirtExactRules bool
	// DockerUserAccept has the chain DOCKER-USER, where Docker made one, lead to
	// the networks' chains as well, and accept what open networks' guests send
	// and get: Docker's own chains may stand before the networks'.
	DockerUserAccept bool
	// Audit is the time between two looks at what no notification tells about,
	// while Watch runs; 0 is DefaultAudit.
	Audit time.Duration
	// Logger is told what was found and changed; nil discards it.
	Logger *slog.Logger
}

// Firewall writes networks' rules into the kernel of the network namespace in
// which it was made. It knows which rules shall stand; what the kernel holds it
// remembers only as long as nftables says that nothing has changed. All methods
// may be called concurrently; changes that wait for each other become one.
type Firewall struct {
	layout layout
	audit  time.Duration
	log    *slog.Logger
	tools  []*tool // IPv4, IPv6
	zones  zones
	queue  queue
	sight  sight

	mu       sync.Mutex
	standing standing // what shall be there; guarded by mu
	memory   memory   // what was seen in the kernel; guarded by mu
	hold     hold     // guarded by mu
	stats    Stats    // guarded by mu
}

// New finds iptables and ip6tables and tries them. It fails only if the prefix
// makes no chain name. A family that does not work, for want of its program, of
// IPv6 in the kernel or of a table that iptables can read, is a warning and one
// of Conditions: it is tried again when a network has rules for it, and only that
// network fails. New makes no chain and no rule.
func New(ctx context.Context, cfg Config) (*Firewall, error) {
	f := &Firewall{
		layout: layout{prefix: orDefault(cfg.ChainPrefix, DefaultPrefix), exact: cfg.LibvirtExactRules, docker: cfg.DockerUserAccept},
		audit:  cfg.Audit,
		log:    cfg.Logger,
	}
	if f.audit <= 0 {
		f.audit = DefaultAudit
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	// XT_EXTENSION_MAXNAMELEN of linux/netfilter/x_tables.h, 29 with the closing
	// NUL, bounds a chain's name; ours add three characters.
	if !regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,24}$`).MatchString(f.layout.prefix) {
		return nil, fmt.Errorf("chain prefix %q: 1 to 25 letters, digits, '_', '.' or '-' are needed", f.layout.prefix)
	}
	f.tools = []*tool{
		{family: IPv4, command: orDefault(cfg.IPTables, "iptables")},
		{family: IPv6, command: orDefault(cfg.IP6Tables, "ip6tables")},
	}
	for _, t := range f.tools {
		t.detect(ctx)
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
			f.log.Warn("no firewall for this family", "family", t.family, "error", t.missing)
			continue
		}
		f.log.Info("firewall found", "family", t.family, "program", t.path, "variant", t.variant)
		if other, holds := t.rival(ctx); holds {
			f.log.Warn("rules exist in the other variant of iptables as well; packets must pass both",
				"family", t.family, "variant", t.variant, "other", other)
		}
	}
	if f.tools[0].missing == nil && f.tools[1].missing == nil && f.tools[0].variant != f.tools[1].variant {
		f.log.Warn("iptables and ip6tables are of different variants", "ipv4", f.tools[0].variant, "ipv6", f.tools[1].variant)
	}
}

// Close gives back what New and the calls since have opened. It touches no rule.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.hold.release(), f.memory.close(), f.zones.close())
}

// Rules are those that Set places for n, in the order of Render. With
// LibvirtExactRules they are Render's alone.
func (f *Firewall) Rules(n Network) []Rule { return f.layout.rules(n) }

// Set makes the kernel hold exactly one copy of n's rules, in order, with the
// chains and jumps that lead to them. What is not complete goes to the head of
// its chain, so the newest network stands first. Rules that Set or Adopt knows
// of for the same bridge and n does not have are deleted in the same
// transaction, and so are those that a libvirtd left for the bridge. When
// nothing is to do, nothing is executed but the listing, and under nf_tables not
// even that if nothing has changed since the last one. Sets and Deletes that
// wait for one that is under way are carried out together.
//
// On an error the rules that stood before are put back. The error is a
// *RestoreError where iptables-restore refused a rule. A failing CHECKSUM rule
// is only logged, as with libvirt: kernels without that target exist, and DHCP
// clients that mind are rare.
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
	f.standing.adopt(n, f.layout.rules(n))
}

// Delete removes every copy of n's rules, and of those that Set or Adopt knows
// of for the same bridge. Chains and jumps stay, as with libvirt. Rules that
// are not there are no error. Both families are tried; their errors are joined.
// Where firewalld runs, the bridge leaves its zone.
func (f *Firewall) Delete(ctx context.Context, n Network) error {
	if err := f.submit(&request{ctx: ctx, network: n}); err != nil {
		return fmt.Errorf("deleting the firewall of bridge %q: %w", n.Bridge, err)
	}
	f.zones.unbind(ctx, n, f.log)
	return nil
}
