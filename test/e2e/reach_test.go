package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// situation is a question, and what is to be said of it.
type situation struct {
	before   string // commands of the host, empty for none
	ask      string // arguments of vnetctl reach
	code     int
	reason   string   // part of that of the last way
	owner    string   // whose rule has decided; of a translation, if it is yes
	by       string   // who answers
	remedies []string // parts of some of them
}

// TestReach asks vnetctl who reaches whom in situations in which people ask, and compares what it
// names.
func TestReach(t *testing.T) {
	nstest.Beside(t)
	for _, backend := range []string{"iptables", "nftables"} {
		t.Run(backend, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				f := forwardingBy(t, backend)
				f.web2.Exec("ping", "-c1", "-W5", "192.0.2.1") // so that the host has heard of it
				for _, s := range situations(backend) {
					f.ask(s)
				}
			})
		})
	}
}

// situations are those to ask about, one behind the other.
func situations(backend string) []situation {
	// Rules of nftables stand beside those of iptables, not ahead of them.
	policy := map[string]string{"iptables": "rejected by a rule of", "nftables": "by "}
	return []situation{
		{ask: "web1 outside tcp/443", reason: "the outside receives it", by: "the outside"},
		{ask: "web:web1 host icmp", reason: "this host receives it", by: "this host"},
		{ask: "outside host tcp/8080", reason: "web1 receives it", owner: "forward 8080/tcp of network web", by: "web1"},
		{ask: "host 192.0.2.1 8080/tcp", reason: "web1 receives it", owner: "forward 8080/tcp of network web", by: "web1"},
		{ask: "198.51.100.2 web1 tcp/80", code: 1, reason: "rejected by a rule of", owner: "network web", remedies: []string{"vnetctl forward add web 80:web1:80/tcp"}},
		{ask: "outside web1 udp/53", code: 1, owner: "network web", remedies: []string{"vnetctl forward add web 53:web1:53/udp"}},
		{ask: "192.0.2.200 web1 tcp/80", reason: "web1 receives it", by: "web1"},
		{
			before: "iptables -P FORWARD DROP", ask: "outside 198.51.100.2 tcp/22", code: 1,
			reason: policy[backend], owner: map[string]string{"iptables": "network beside"}[backend],
		},
		{
			before: "iptables -I FORWARD -d 203.0.113.0/24 -p tcp --dport 25 -j DROP", ask: "web1 203.0.113.1 tcp/25", code: 1,
			reason: "dropped by a rule of iptables (table filter, chain FORWARD)", remedies: []string{"iptables -I FORWARD"},
		},
		{before: "iptables -P FORWARD ACCEPT; iptables -D FORWARD -d 203.0.113.0/24 -p tcp --dport 25 -j DROP", ask: "web1 host tcp/22 --format {{.protocol}}/{{.port}}={{.verdict}}"},
		{
			before: "nft add table inet ids; nft 'add chain inet ids f { type filter hook forward priority 5; }'; nft add rule inet ids f tcp dport 5432 meta length 1-1400 drop",
			ask:    "web1 outside tcp/5432", code: 7, reason: "it depends on what is not known here of a rule of nft (table inet ids, chain f)",
		},
		{ask: "web1 nobody tcp/1", code: 3},
		{ask: "web1 host gre/1", code: 2},
		{ask: "web1", code: 2},
		{before: "ip route add unreachable 203.0.113.99", ask: "web1 203.0.113.99 tcp/1", code: 1, reason: "has no way to 203.0.113.99"},
	}
}

// ask asks about a situation.
func (f *forwarding) ask(s situation) {
	f.Helper()
	if s.before != "" {
		nstest.Exec(f.T, "sh", "-ec", s.before)
	}
	args := append([]string{"reach"}, strings.Fields(s.ask)...)
	formatted := strings.Contains(s.ask, "--format")
	if !formatted {
		args = append(args, "--json")
	}
	got := f.Vnetctl(f.T.Context(), args...)
	if got.Code != s.code {
		f.Errorf("reach %s: exit %d, want %d: %s%s", s.ask, got.Code, s.code, got.Stdout, got.Stderr)
		return
	}
	if formatted {
		if got.Stdout != "tcp/22=yes\n" {
			f.Errorf("reach %s prints %q", s.ask, got.Stdout)
		}
		return
	}
	if s.reason == "" && s.owner == "" {
		return
	}
	var r api.Reach
	if err := json.Unmarshal([]byte(got.Stdout), &r); err != nil {
		f.Fatalf("reach %s: %v: %s", s.ask, err, got.Stdout)
	}
	i := slices.IndexFunc(r.Ways, func(w api.ReachWay) bool { return w.Family == "ipv4" })
	if i < 0 {
		f.Fatalf("reach %s: no IPv4: %s", s.ask, got.Stdout)
	}
	if err := s.differs(&r.Ways[i]); err != nil {
		f.Errorf("reach %s: %v: %s", s.ask, err, got.Stdout)
	}
}

// differs says what of a way is not as it is to be.
func (s *situation) differs(w *api.ReachWay) error {
	owner := ""
	switch {
	case w.Rule != nil:
		owner = w.Rule.Owner
	case len(w.Translations) > 0:
		owner = w.Translations[0].Rule.Owner
	}
	switch {
	case !strings.Contains(w.Reason, s.reason):
		return fmt.Errorf("the reason is %q, want %q in it", w.Reason, s.reason)
	case s.owner != "" && owner != s.owner:
		return fmt.Errorf("the rule is of %q, want %q", owner, s.owner)
	case s.by != "" && w.AnsweredBy != s.by:
		return fmt.Errorf("%q answers, want %q", w.AnsweredBy, s.by)
	}
	for _, want := range s.remedies {
		if !slices.ContainsFunc(w.Remedies, func(r string) bool { return strings.Contains(r, want) }) {
			return fmt.Errorf("the remedies are %q, want %q in one", w.Remedies, want)
		}
	}
	return nil
}
