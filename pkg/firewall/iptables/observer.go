package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
)

// Observer tells what rules of others do to guests whose networks have their own rules
// elsewhere than in iptables. It writes nothing, but to remove what a libvirtd left. It
// is safe for concurrent use.
type Observer struct {
	config    Config
	options   options
	snapshots snapshots

	mu    sync.Mutex
	tools []tool // guarded by mu
}

// Observe returns an Observer. Programs of iptables that are not there are none to be
// observed.
func Observe(ctx context.Context, cfg Config) *Observer {
	o := &Observer{config: cfg, options: options{prefix: orDefault(cfg.ChainPrefix, DefaultPrefix), none: true}}
	for _, t := range newTools(cfg.IPTables, cfg.IP6Tables) {
		t.missing = t.find(ctx)
		o.tools = append(o.tools, *t)
	}
	return o
}

// Prefix is how the names of our chains begin.
func (o *Observer) Prefix() string { return o.options.prefix }

// present are the families' programs as they are now.
func (o *Observer) present(ctx context.Context) []tool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.tools {
		if o.tools[i].appeared() {
			o.tools[i].missing = o.tools[i].find(ctx)
		}
	}
	return slices.Clone(o.tools)
}

// Works says why the host's iptables for IPv4 can't be used, if so.
func (o *Observer) Works(ctx context.Context) error { return o.present(ctx)[0].missing }

// Conditions are firewall.Writer's. foreign is the generation of nftables up to which
// somebody else may have changed rules; 0: not known.
func (o *Observer) Conditions(ctx context.Context, foreign uint32, networks []firewall.Network) ([]firewall.Condition, error) {
	needed := o.concerned(ctx, networks)
	if legacyFilters() {
		foreign = 0
	}
	others, err := o.snapshots.patiently(ctx, foreign, needed, o.options, networks)
	if errors.Is(err, firewall.ErrChanging) {
		return nil, err
	}
	return append(ofSettings(needed, networks), others...), err
}

// concerned are the programs of the families that networks use.
func (o *Observer) concerned(ctx context.Context, networks []firewall.Network) []tool {
	return slices.DeleteFunc(o.present(ctx), func(t tool) bool { return !diagnose.Concerned(t.family, networks) })
}

// Rules are all rules of the host, as its programs list them now: those of nftables, ours
// among them, and of both variants of iptables. The error tells what could not be listed, and
// is ErrHidden where nobody here can list what there is.
func (o *Observer) Rules(ctx context.Context) (*ruleset.Ruleset, error) {
	var tools []tool
	for _, t := range o.present(ctx) {
		if t.missing == nil {
			tools = append(tools, t)
		}
	}
	var s snapshot
	err := s.take(ctx, tools, &diagnose.Listing{Own: true})
	if err == nil {
		err = hiddenRules(tools)
	}
	return s.rules, err
}

// ErrHidden says that rules may stand that are not listed, for want of a program.
var ErrHidden = errors.New("rules can't be listed")

// hiddenRules says which rules the programs that are installed do not list.
func hiddenRules(tools []tool) error {
	if _, err := exec.LookPath("nft"); err != nil {
		if socket, failed := nfnetlink.Open(); failed == nil {
			defer func() { _ = socket.Close() }()
			if generation, failed := socket.Current(); failed == nil && generation > 1 { // the first is of no rules at all
				return fmt.Errorf("%w: nftables is in use and the program nft is not installed", ErrHidden)
			}
		}
	}
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		listed := slices.ContainsFunc(tools, func(t tool) bool { return t.family == f })
		if !listed && len(legacyTables(f)) > 0 {
			return fmt.Errorf("%w: iptables-legacy is in use for %v and its program is not installed", ErrHidden, f)
		}
	}
	return nil
}

// RemoveLeftovers removes the rules that a libvirtd left for n's bridge, in tables of
// its own and in chains of iptables.
func (o *Observer) RemoveLeftovers(ctx context.Context, n firewall.Network) error {
	_, err := removeLibvirtsTables(ctx, n)
	if !o.Stands(ctx) {
		return err
	}
	w, failed := New(ctx, o.config)
	if failed != nil {
		return errors.Join(err, failed)
	}
	return errors.Join(err, w.Apply(ctx, nil, []firewall.Change{{Network: n}}), w.Close())
}

// anyNetwork stands for networks that are not known yet.
func anyNetwork() firewall.Network {
	return firewall.Network{
		Bridge: "vnetd-any", Mode: firewall.ModeNAT, DHCP: true,
		Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
	}
}

// Obstacle is what in iptables cuts off guests, of networks or of any, unless the
// networks' own rules stand there, before it: "" if nothing does. What tables of
// nftables drop no rule of iptables accepts either, and is none.
func (o *Observer) Obstacle(ctx context.Context, networks []firewall.Network) (string, error) {
	if len(networks) == 0 {
		networks = []firewall.Network{anyNetwork()}
	}
	needed := o.concerned(ctx, networks)
	others, err := o.snapshots.conditions(ctx, 0, needed, o.options, networks)
	if err != nil {
		return "", fmt.Errorf("looking for rules of iptables that cut guests off: %w", err)
	}
	found := append(ofSettings(needed, networks), others...)
	i := slices.IndexFunc(found, func(c firewall.Condition) bool {
		cuts := c.Kind == firewall.KindPolicy || c.Kind == firewall.KindDrop
		return cuts && !c.Harmless && (strings.HasPrefix(c.Evidence, "iptables") || strings.HasPrefix(c.Evidence, "ip6tables"))
	})
	if i < 0 {
		return "", nil
	}
	return found[i].Evidence, nil
}

// Stands reports whether rules are in chains of that prefix, by whomever, in a table of
// either variant. Chains alone, as a libvirtd makes once, are none.
func (o *Observer) Stands(ctx context.Context) bool {
	socket, err := nfnetlink.Open()
	if err != nil {
		return o.legacyStands(ctx)
	}
	defer func() { _ = socket.Close() }()
	for _, f := range []firewall.Family{firewall.IPv4, firewall.IPv6} {
		if rules, err := socket.Rules(nfproto(f), tableFilter, o.options.prefix+chainFWO); err == nil && len(rules) > 0 {
			return true
		}
	}
	return o.legacyStands(ctx)
}

// legacyStands reports whether rules are in chains of that prefix of iptables-legacy.
func (o *Observer) legacyStands(ctx context.Context) bool {
	for _, t := range o.present(ctx) {
		if t.missing != nil || !slices.Contains(legacyTables(t.family), tableFilter) {
			continue
		}
		out, err := run(ctx, "", t.program()+"-legacy-save", "-t", tableFilter)
		if err == nil && strings.Contains(out, "\n-A "+o.options.prefix+chainFWO+" ") {
			return true
		}
	}
	return false
}
