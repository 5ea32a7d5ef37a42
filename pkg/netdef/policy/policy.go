// Package policy has what a document says of who may reach whom: its peerings with other
// networks (<vnetd:peer>), and its rules (<vnetd:rules>) for what guests open and what is
// opened to them. It reads and prints the elements, and a rule as one line of text, and finds
// their faults. It is pure, and knows nothing of a network but what Context says.
package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// Ports is an inclusive range of ports; zero: all.
type Ports struct{ Start, End uint16 }

// Service is what connections are opened to.
type Service struct {
	Protocol string // tcp, udp, sctp or icmp, which is that of either family; "": everything
	Ports    Ports
}

// Directions of a peering, as guests of the network whose document it is see it.
const (
	Out  = "out"  // they may open connections
	In   = "in"   // connections may be opened to them
	Both = "both" // either
)

// Peer is a <vnetd:peer>: what guests of the network and those of another may open to each
// other, as far as that one says so too.
type Peer struct {
	Network   string    // the other's name
	Services  []Service // none: everything
	Direction string    // Out, In or Both
}

// Opens reports whether the peering has connections be opened in a direction, Out or In.
func (p *Peer) Opens(direction string) bool { return p.Direction == direction || p.Direction == Both }

// Directions and actions of rules.
const (
	Egress  = "egress"  // a guest opens a connection to what is not on its network
	Ingress = "ingress" // it is opened to a guest, from there

	Allow  = "allow"
	Reject = "reject"
	Drop   = "drop"
)

// Rules is <vnetd:rules>: rules, of which the first that fits decides, what becomes of
// connections that none fits ("": the network's mode says), and sets that rules name.
type Rules struct {
	Egress, Ingress string
	Sets            []Set
	Rules           []Rule
}

// Set is a <vnetd:set>.
type Set struct {
	Name    string
	Members []Remote // without sets
}

// Rule is a <vnetd:rule>.
type Rule struct {
	Direction string // Egress or Ingress
	Action    string // Allow, Reject or Drop
	Protocol  string // as in Service
	Ports     []Ports
	Remotes   []Remote // none: anywhere
	Log       bool
}

// Remote is one of an address or a subnet, a name, and the name of a set.
type Remote struct {
	Prefix netip.Prefix
	Name   string // of DNS, in lower case; "*.example.org": all names below example.org
	Set    string // without "@"
}

// IsZero reports whether nothing is said.
func (r *Rules) IsZero() bool {
	return r.Egress == "" && r.Ingress == "" && len(r.Sets) == 0 && len(r.Rules) == 0
}

// Clone returns a copy that shares nothing with r.
func (r *Rules) Clone() Rules {
	c := *r
	c.Sets, c.Rules = slices.Clone(r.Sets), slices.Clone(r.Rules)
	for i := range c.Sets {
		c.Sets[i].Members = slices.Clone(c.Sets[i].Members)
	}
	for i := range c.Rules {
		c.Rules[i].Ports, c.Rules[i].Remotes = slices.Clone(c.Rules[i].Ports), slices.Clone(c.Rules[i].Remotes)
	}
	return c
}

// ClonePeers is Clone for peerings.
func ClonePeers(all []Peer) []Peer {
	all = slices.Clone(all)
	for i := range all {
		all[i].Services = slices.Clone(all[i].Services)
	}
	return all
}

// Members are what a rule's remotes are with the members of sets in their place.
func (r *Rules) Members(rule *Rule) (all []Remote) {
	for _, m := range rule.Remotes {
		if m.Set == "" {
			all = append(all, m)
			continue
		}
		if i := slices.IndexFunc(r.Sets, func(s Set) bool { return s.Name == m.Set }); i >= 0 {
			all = append(all, r.Sets[i].Members...)
		}
	}
	return all
}

// Services are what the rule is for; none: everything.
func (r *Rule) Services() (all []Service) {
	for _, p := range r.Ports {
		all = append(all, Service{r.Protocol, p})
	}
	if len(all) == 0 && r.Protocol != "" {
		all = append(all, Service{Protocol: r.Protocol})
	}
	return all
}

// Covers reports whether all of o is in s.
func (s Service) Covers(o Service) bool {
	if s.Protocol == "" {
		return true
	}
	return s.Protocol == o.Protocol && (s.Ports == Ports{} || o.Ports != Ports{} && s.Ports.Start <= o.Ports.Start && o.Ports.End <= s.Ports.End)
}

// String is the service as documents have it: tcp/80, udp/8000-8010, icmp.
func (s Service) String() string {
	switch {
	case s.Protocol == "":
		return "everything"
	case s.Ports == Ports{}:
		return s.Protocol
	}
	return s.Protocol + "/" + s.Ports.String()
}

// String is the range as documents have it: 80, or 8000-8010.
func (p Ports) String() string {
	if p.Start == p.End {
		return strconv.Itoa(int(p.Start))
	}
	return fmt.Sprintf("%d-%d", p.Start, p.End)
}

// String is the remote as documents have it.
func (r Remote) String() string {
	switch {
	case r.Set != "":
		return "@" + r.Set
	case r.Name != "":
		return r.Name
	case r.Prefix.IsSingleIP():
		return r.Prefix.Addr().String()
	}
	return r.Prefix.String()
}

// Matches reports whether a name of DNS, in lower case and without a dot at its end, is r's.
func (r Remote) Matches(name string) bool {
	if below, any := strings.CutPrefix(r.Name, "*"); any {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return r.Name != "" && r.Name == name
}

// Domain is the name of DNS, or that below which all are.
func (r Remote) Domain() string { return strings.TrimPrefix(r.Name, "*.") }

// join renders all with blanks between.
func join[T fmt.Stringer](all []T) string { return joinBy(all, " ") }

func joinBy[T fmt.Stringer](all []T, by string) string {
	texts := make([]string, len(all))
	for i := range all {
		texts[i] = all[i].String()
	}
	return strings.Join(texts, by)
}

// JoinServices are services as ParseServices reads them; "" for none.
func JoinServices(all []Service) string { return join(all) }

// errPorts says what ports are.
var errPorts = errors.New("want ports from 1 to 65535, and ranges like 8000-8080")

// ParsePorts reads "80" or "80-89".
func ParsePorts(s string) (Ports, error) {
	first, last, ranged := strings.Cut(s, "-")
	if !ranged {
		last = first
	}
	start, err1 := strconv.ParseUint(first, 10, 16)
	end, err2 := strconv.ParseUint(last, 10, 16)
	if err1 != nil || err2 != nil || start == 0 || end < start {
		return Ports{}, fmt.Errorf("%q: %w", s, errPorts)
	}
	return Ports{uint16(start), uint16(end)}, nil
}

// parsePortList reads ports with blanks or commas between.
func parsePortList(s string) (all []Ports, err error) {
	for word := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		p, err := ParsePorts(word)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) == 0 {
		return nil, errPorts
	}
	return all, nil
}

// protocols are those of services; those with ports first.
var protocols = []string{"tcp", "udp", "sctp", "icmp"}

// hasPorts reports whether a protocol has ports.
func hasPorts(protocol string) bool {
	return protocol != "icmp" && slices.Contains(protocols, protocol)
}

// parseProtocol reads a protocol.
func parseProtocol(s string) (string, error) {
	if !slices.Contains(protocols, s) {
		return "", errors.New("want tcp, udp, sctp or icmp")
	}
	return s, nil
}

// ParseServices reads services with blanks between: "tcp/80,443 udp/53 icmp".
func ParseServices(s string) (all []Service, err error) {
	for word := range strings.FieldsSeq(s) {
		some, err := parseService(word)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	if len(all) == 0 {
		return nil, errors.New("want services such as tcp/5432, udp/53 or icmp, with blanks between")
	}
	return all, nil
}

// parseService reads a protocol, with ports behind a slash or without.
func parseService(word string) ([]Service, error) {
	protocol, ports, ported := strings.Cut(word, "/")
	if _, err := parseProtocol(protocol); err != nil || ported && !hasPorts(protocol) {
		return nil, fmt.Errorf("%.80q is no service: want such as tcp/5432, udp/8000-8010 or icmp", word)
	}
	if !ported {
		return []Service{{Protocol: protocol}}, nil
	}
	list, err := parsePortList(ports)
	if err != nil {
		return nil, fmt.Errorf("%.80q: %w", word, err)
	}
	var all []Service
	for _, p := range list {
		all = append(all, Service{protocol, p})
	}
	return all, nil
}

// parseRemotes reads remotes with blanks between.
func parseRemotes(s string) (all []Remote, err error) {
	for word := range strings.FieldsSeq(s) {
		r, err := parseRemote(word)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		return nil, errors.New("want subnets, addresses, names and @sets, with blanks between")
	}
	return all, nil
}

// ParseMembers reads the members of a set, with blanks between.
func ParseMembers(s string) ([]Remote, error) { return parseRemotes(s) }

// parseRemote reads one.
func parseRemote(word string) (Remote, error) {
	if name, is := strings.CutPrefix(word, "@"); is {
		if problem := setName(name); problem != "" {
			return Remote{}, fmt.Errorf("%.80q: %s", word, problem)
		}
		return Remote{Set: name}, nil
	}
	if a, err := netip.ParseAddr(word); err == nil && a.Zone() == "" {
		return addressed(word, netip.PrefixFrom(a, a.BitLen()))
	}
	if p, err := netip.ParsePrefix(word); err == nil || strings.Contains(word, "/") {
		return addressed(word, p)
	}
	return named(word)
}

// addressed is the remote of a prefix, which word says.
func addressed(word string, p netip.Prefix) (Remote, error) {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return Remote{}, fmt.Errorf("%.80q is no subnet, want such as 198.51.100.0/24", word)
	case p.Masked() != p:
		return Remote{}, fmt.Errorf("%.80q is an address in a subnet, want %s or %s", word, p.Masked(), p.Addr())
	}
	return Remote{Prefix: p}, nil
}

// named is the remote of a name.
func named(word string) (Remote, error) {
	name := strings.TrimPrefix(word, "*.")
	ascii, err := dnsname.Host(name)
	switch {
	case err != nil:
		return Remote{}, fmt.Errorf("%.80q is neither an address nor a name: %w", word, err)
	case isNumber(name[strings.LastIndexByte(name, '.')+1:]):
		return Remote{}, fmt.Errorf("%.80q is no address, want such as 198.51.100.7", word)
	case !strings.Contains(ascii, "."):
		return Remote{}, fmt.Errorf("%.80q is a name of one label, as guests have: want a whole name such as www.example.org, or an address. "+
			"Guests of one network reach each other without rules, those of another by <vnetd:peer>", word)
	}
	return Remote{Name: word[:len(word)-len(name)] + strings.ToLower(ascii)}, nil
}

// isNumber reports whether s has nothing but digits.
func isNumber(s string) bool { return strings.Trim(s, "0123456789") == "" }

// setName returns what is wrong with the name of a set, "" if nothing is.
func setName(name string) string {
	ok := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r)
	}
	if name == "" || len(name) > 63 || strings.ContainsFunc(name, func(r rune) bool { return !ok(r) }) {
		return "want the name of a set: 1 to 63 letters, digits, hyphens, dots and underscores"
	}
	return ""
}
