package iptables

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/ruleset"
	"github.com/vnetd/vnetd/pkg/firewall/keep"
)

// snapshot is all rules that decide on guests' packets.
type snapshot struct {
	rules  *ruleset.Ruleset
	hidden error // of tables that iptables can't show

	networks []firewall.Network // that were asked about last
	asking   *diagnose.Asking   // about them; nil: nobody has asked
}

// snapshots keep the one that was taken last.
type snapshots struct {
	mu      sync.Mutex
	foreign uint32 // see cache; 0: nothing is remembered
	tools   []string
	last    *snapshot

	waiting sync.Mutex // guards what follows
	since   time.Time  // when one was asked for that is not taken yet; zero: there is none
	asked   time.Time  // when that was last

	ended int       // how many were, one after the other, as changes came
	next  time.Time // none is begun before, since others were ended

	patience time.Duration // how long the end of changes is waited for; 0: longestDelay
}

// The programs that list rules begin anew at each commit to nftables, whoever makes it: one that has
// not come to its end after storm, in which there were commits in at least stormy spans of calm, is
// ended. A list is begun when nobody has committed for calm; the one after a list that was ended, when
// shortestPause is over as well, and twice that after each further one, up to longestPause. longestDelay
// is how long they are put off, and ended, so.
const (
	calm          = 100 * time.Millisecond
	shortestPause = 2 * time.Second
	longestPause  = 16 * time.Second
	stormy        = 3
	storm         = time.Second
	longestDelay  = time.Minute
)

// patiently is conditions, or firewall.ErrChanging where a snapshot is to be taken and better is
// not yet, or comes to no end since commits follow each other.
func (s *snapshots) patiently(ctx context.Context, foreign uint32, tools []tool, o options, networks []firewall.Network) ([]firewall.Condition, error) {
	if s.isFresh(foreign, tools) || s.insists() {
		return s.conditions(ctx, foreign, tools, o, networks)
	}
	if s.pauses() || !restful(ctx, calm) {
		return nil, firewall.ErrChanging
	}
	ctx, end := context.WithCancelCause(ctx)
	finished := new(atomic.Uint64)
	ctx = context.WithValue(ctx, finishedKey{}, finished)
	var watching sync.WaitGroup
	watching.Go(func() { endInStorm(ctx, end, finished) })
	defer watching.Wait()
	defer end(nil)
	found, err := s.conditions(ctx, foreign, tools, o, networks)
	s.waiting.Lock()
	defer s.waiting.Unlock()
	if err != nil && errors.Is(context.Cause(ctx), firewall.ErrChanging) {
		s.next = time.Now().Add(min(shortestPause<<s.ended, longestPause))
		s.ended++
		return nil, firewall.ErrChanging
	}
	s.putOff(time.Time{})
	return found, err
}

// pauses reports whether a list was ended a moment ago.
func (s *snapshots) pauses() bool {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	return time.Now().Before(s.next)
}

// insists reports whether a snapshot that is asked for now is taken whatever comes meanwhile: it
// was for long enough, again and again.
func (s *snapshots) insists() bool {
	s.waiting.Lock()
	defer s.waiting.Unlock()
	now, patience := time.Now(), cmp.Or(s.patience, longestDelay)
	if s.since.IsZero() || now.Sub(s.asked) > patience {
		s.putOff(now)
	}
	s.asked = now
	if now.Sub(s.since) <= patience {
		return false
	}
	s.putOff(time.Time{})
	return true
}

// putOff says since when a snapshot is waited for; zero: it is not. The caller holds waiting.
func (s *snapshots) putOff(since time.Time) {
	s.since, s.ended, s.next = since, 0, time.Time{}
}

// endInStorm calls end once commits have gone on for a while in which no program has come to its end,
// until ctx ends.
func endInStorm(ctx context.Context, end context.CancelCauseFunc, finished *atomic.Uint64) {
	var first time.Time
	var before uint64
	for times := 0; ctx.Err() == nil; {
		if now := finished.Load(); now != before {
			before, times = now, 0
		}
		if restful(ctx, calm) {
			continue
		}
		if times++; times == 1 {
			first = time.Now()
		}
		if times >= stormy && time.Since(first) > storm {
			end(firewall.ErrChanging)
		}
	}
}

// restful reports whether nobody commits to nftables for so long, as far as that can be told.
func restful(ctx context.Context, long time.Duration) bool {
	before := generation()
	select {
	case <-ctx.Done():
	case <-time.After(long):
	}
	after := generation()
	return before == after || before == 0 || after == 0
}

// isFresh is fresh for who does not hold mu.
func (s *snapshots) isFresh(foreign uint32, tools []tool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fresh(foreign, paths(tools))
}

// fresh reports whether the last snapshot is of the rules as they are. The caller holds mu.
func (s *snapshots) fresh(foreign uint32, paths []string) bool {
	return foreign != 0 && foreign == s.foreign && slices.Equal(paths, s.tools)
}

// generation is that of nftables, 0 where it is not known.
func generation() uint32 {
	socket, err := nfnetlink.Open()
	if err != nil {
		return 0
	}
	defer func() { _ = socket.Close() }()
	now, _ := socket.Current()
	return now
}

// paths are those of programs.
func paths(tools []tool) (all []string) {
	for i := range tools {
		all = append(all, tools[i].path)
	}
	return all
}

// absence is the condition of a family that can't be used. A kernel without IPv6
// is none as long as no network asks for it.
func (t *tool) absence(o options, networks []firewall.Network) []firewall.Condition {
	c := firewall.Condition{Kind: firewall.KindNoIPTables, Summary: t.missing.Error(), Evidence: "command -v " + t.command, Remedy: "apt-get install iptables"}
	for _, n := range networks {
		if slices.ContainsFunc(o.lines(n.Rules()), func(r firewall.Line) bool { return r.Family == t.family }) {
			c.Bridges = append(c.Bridges, n.Bridge)
		}
	}
	if !errors.Is(t.missing, errNotInstalled) {
		c.Evidence, c.Remedy = errors.Unwrap(t.missing).Error(), ""
	}
	if c.Harmless = t.family == firewall.IPv6 && len(c.Bridges) == 0; c.Harmless && c.Remedy == "" {
		return nil
	}
	return []firewall.Condition{c}
}

// legacyFilters reports whether iptables-legacy has a filter table, whose changes
// nobody counts.
func legacyFilters() bool {
	return slices.ContainsFunc([]firewall.Family{firewall.IPv4, firewall.IPv6}, func(f firewall.Family) bool { return slices.Contains(legacyTables(f), tableFilter) })
}

// legacyTables are the tables of iptables-legacy that are there.
func legacyTables(f firewall.Family) []string {
	names := "/proc/net/ip_tables_names"
	if f == firewall.IPv6 {
		names = "/proc/net/ip6_tables_names"
	}
	text, err := os.ReadFile(names)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// program is the program's name in commands for the administrator.
func (t *tool) program() string {
	if t.family == firewall.IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// ofSettings are the conditions that are no rules', of the families of programs.
func ofSettings(needed []tool, networks []firewall.Network) (found []firewall.Condition) {
	for _, t := range needed {
		found = append(found, diagnose.Settings(t.family, networks)...)
	}
	return append(found, diagnose.Legacy(networks)...)
}

// conditions are those of networks, by the last snapshot or by one that is taken with
// tools: one at a foreign of 0 is not remembered, nor is one that is not whole.
func (s *snapshots) conditions(ctx context.Context, foreign uint32, tools []tool, o options, networks []firewall.Network) ([]firewall.Condition, error) {
	var bridges []string
	for i := range networks {
		bridges = append(bridges, networks[i].Bridge)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	if now := paths(tools); !s.fresh(foreign, now) {
		s.last, err = takeSnapshot(ctx, tools)
		s.foreign, s.tools = foreign, now
	}
	if err != nil {
		s.foreign = 0
	}
	return s.last.conditions(diagnose.ReadFacts(bridges), tools, o, networks), errors.Join(err, s.last.hidden)
}

// conditions are those of the networks, as they were where nothing has changed since the
// last time. Our own rules count as standing: what is missing is being repaired, and
// those of a network that came later are not in the snapshot.
func (s *snapshot) conditions(facts diagnose.Facts, tools []tool, o options, networks []firewall.Network) []firewall.Condition {
	if s.asking == nil || !reflect.DeepEqual(networks, s.networks) {
		s.networks, s.asking = networks, diagnose.NewAsking(s.rules.With(owned(tools, o, networks)), o.owns, networks)
	}
	return s.asking.Conditions(&facts)
}

// owned are the rules of networks, and the jumps that lead to them.
func owned(tools []tool, o options, networks []firewall.Network) []ruleset.Own {
	var all []ruleset.Own
	add := func(lines []firewall.Line, head bool) {
		for _, l := range lines {
			i := slices.IndexFunc(tools, func(t tool) bool { return t.family == l.Family })
			if i < 0 {
				continue
			}
			t := &tools[i]
			next := ruleset.Own{
				Family: diagnose.FamilyName(l.Family), Program: t.program(), Legacy: t.variant == variantLegacy, Table: l.Table, Chain: l.Chain, Head: head,
			}
			if n := len(all); n > 0 && len(all[n-1].Args) > 0 && sameChain(&all[n-1], &next) {
				all[n-1].Args = append(all[n-1].Args, l.Args)
				continue
			}
			next.Args = []string{l.Args}
			all = append(all, next)
		}
	}
	var placed []firewall.Line
	for i := range networks {
		lines := o.lines(networks[i].Rules())
		slices.SortStableFunc(lines, func(a, b firewall.Line) int {
			return cmp.Or(cmp.Compare(a.Family, b.Family), strings.Compare(a.Table, b.Table), strings.Compare(a.Chain, b.Chain))
		})
		add(lines, false)
		all, placed = append(all, ruleset.Own{}), append(placed, lines...) // ends the network
	}
	if !o.none && slices.ContainsFunc(networks, func(n firewall.Network) bool { return n.Mode.Filtered() }) {
		add(o.jumps(nowhere, placed), true)
	}
	return slices.DeleteFunc(all, func(o ruleset.Own) bool { return o.Table == "" })
}

// sameChain reports whether rules stand in one chain.
func sameChain(a, b *ruleset.Own) bool {
	return a.Family == b.Family && a.Table == b.Table && a.Chain == b.Chain && a.Head == b.Head
}

// takeSnapshot lists all rules. What it could not list is in the error.
func takeSnapshot(ctx context.Context, tools []tool) (*snapshot, error) {
	s := &snapshot{rules: new(ruleset.Ruleset)}
	if len(tools) == 0 {
		return s, nil
	}
	return s, s.take(ctx, tools, new(diagnose.Listing))
}

// take lists all rules into l, and reads them.
func (s *snapshot) take(ctx context.Context, tools []tool, l *diagnose.Listing) error {
	faults := []error{listNFT(ctx, l)}
	for i := range tools {
		faults = append(faults, tools[i].listSaved(ctx, l, s))
	}
	faults = append(faults, listSets(ctx, l))
	var err error
	s.rules, err = l.Rules()
	if err := errors.Join(append(faults, err)...); err != nil {
		return fmt.Errorf("listing the host's rules: %w", err)
	}
	return nil
}

// listNFT lists all of nftables, nothing without the program nft. Tables of vnetd's own, which are
// most of it on a host with many networks, are left out where they don't count.
func listNFT(ctx context.Context, l *diagnose.Listing) error {
	path, err := exec.LookPath("nft")
	if err != nil {
		return nil
	}
	tables, err := listTables()
	if err != nil {
		return err
	}
	return listParts(ctx, path, tables, l)
}

// listParts lists what counts of those tables, by the program at path.
func listParts(ctx context.Context, path string, tables []nftTable, l *diagnose.Listing) (err error) {
	parts := partsOf(tables, l.Own)
	if l.NFT, err = listJSON(ctx, path, parts); err != nil {
		return err
	}
	var text strings.Builder
	for _, part := range parts {
		one, err := listOne(ctx, path, append([]string{"--handle", "--stateless", "--terse", "list"}, part...))
		if err != nil {
			return err
		}
		text.WriteString(one)
	}
	l.Text = text.String()
	return nil
}

// nftTable is a table by family and name.
type nftTable struct{ family, name string }

// families are nft's names of the kernel's families (NFPROTO_…).
var families = map[uint8]string{
	unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet",
	unix.NFPROTO_ARP: "arp", unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev",
}

// listTables lists the tables of nftables, by the kernel itself: the program nft does not come to
// an end of it while networks are started one after the other.
func listTables() (all []nftTable, err error) {
	socket, err := nfnetlink.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = socket.Close() }()
	places, err := socket.Tables()
	for _, p := range places {
		if name, known := families[p.Family]; known {
			all = append(all, nftTable{name, p.Table})
		}
	}
	return all, err
}

// partsOf are what nft is asked to list of tables: a family as a whole, or where it has some that
// are not asked for, each of the others. Those are vnetd's own where they don't count, and that of
// package keep: in JSON version 1.0.6 of nft prints memory that it has freed, crashes or ends its list,
// without an error, where a table belongs to a process (NFT_TABLE_F_OWNER, which its JSON has no name
// for).
func partsOf(tables []nftTable, own bool) (parts [][]string) {
	asked := func(t nftTable) bool { return t.name != keep.Table && (own || !diagnose.Own(t.family, t.name)) }
	var whole []string // families
	for _, t := range tables {
		divided := slices.ContainsFunc(tables, func(other nftTable) bool { return other.family == t.family && !asked(other) })
		switch {
		case divided && asked(t):
			parts = append(parts, []string{"table", t.family, t.name})
		case !divided && !slices.Contains(whole, t.family):
			whole = append(whole, t.family)
			parts = append(parts, []string{"ruleset", t.family})
		}
	}
	return parts
}

// listOne runs nft, which prints nothing of a table that has gone meanwhile.
func listOne(ctx context.Context, path string, args []string) (string, error) {
	text, err := run(ctx, "", path, args...)
	if err != nil && strings.Contains(err.Error(), "No such file or directory") {
		return "", nil
	}
	return text, err
}

// listJSON lists parts of nftables as one.
func listJSON(ctx context.Context, path string, parts [][]string) (string, error) {
	type list struct {
		Nftables []json.RawMessage `json:"nftables"`
	}
	all := list{Nftables: []json.RawMessage{}}
	for _, part := range parts {
		text, err := listOne(ctx, path, append([]string{"--json", "--stateless", "list"}, part...))
		if err != nil {
			return "", err
		}
		var one list
		if err := json.Unmarshal([]byte(cmp.Or(text, "{}")), &one); err != nil {
			return "", fmt.Errorf("the program nft can't list %s: %w", strings.Join(part, " "), err)
		}
		all.Nftables = append(all.Nftables, one.Nftables...)
	}
	text, err := json.Marshal(all)
	return string(text), err
}

// listSaved lists the family's rules in both variants of iptables. Listing a table of
// iptables-legacy makes it, so only what is there is listed.
func (t *tool) listSaved(ctx context.Context, l *diagnose.Listing, s *snapshot) error {
	var faults []error
	for _, variant := range []string{variantNFT, variantLegacy} {
		path := t.path
		if variant != t.variant {
			path = t.program() + "-" + map[string]string{variantNFT: "nft", variantLegacy: "legacy"}[variant]
		}
		path, err := exec.LookPath(path + "-save")
		if err != nil || variant == variantLegacy && len(legacyTables(t.family)) == 0 {
			continue
		}
		text, err := run(ctx, "", path)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		if variant == t.variant {
			_, err := parseListing(text)
			s.hidden = errors.Join(s.hidden, err)
		}
		l.Saved = append(l.Saved, diagnose.Saved{Family: t.family, Legacy: variant == variantLegacy, Rival: variant != t.variant, Text: text})
	}
	return errors.Join(faults...)
}

// listSets lists the sets that rules of iptables name.
func listSets(ctx context.Context, l *diagnose.Listing) error {
	path, err := exec.LookPath("ipset")
	if err != nil || !slices.ContainsFunc(l.Saved, func(s diagnose.Saved) bool { return strings.Contains(s.Text, "--match-set ") }) {
		return nil
	}
	l.IPSet, err = run(ctx, "", path, "save")
	return err
}
