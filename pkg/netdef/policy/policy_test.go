package policy_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/netdef/policy"
)

// TestParseRule reads rules, and prints them as they are read again.
func TestParseRule(t *testing.T) {
	for text, want := range map[string]string{
		"egress allow": "egress allow",
		"egress  reject tcp/443,80,8000-8080 to *.Example.ORG 192.0.2.0/24 @set log": "egress reject tcp/443,80,8000-8080 to *.example.org 192.0.2.0/24 @set log",
		"ingress drop icmp from 2001:db8::1":                                         "ingress drop icmp from 2001:db8::1",
		"ingress allow udp log":                                                      "ingress allow udp log",
	} {
		r, err := policy.ParseRule(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %q, %v, want %q", text, r, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                                   "is no rule",
		"egress":                             "is no rule",
		"out allow":                          "want egress or ingress",
		"egress permit":                      "want allow or reject or drop",
		"egress allow http":                  "is no service",
		"egress allow from 192.0.2.1":        "is no service",
		"egress allow tcp/80 from 192.0.2.1": `want "to"`,
		"egress allow to":                    "want subnets",
		"egress allow tcp/80 udp/53":         `want "to"`,
		"egress allow to log":                "want subnets",
		"egress allow to web1":               "name of one label",
		"ingress allow tcp/0 from 192.0.2.1": "want ports from 1",
		"ingress allow icmp/8":               "is no service",
		"egress allow to fe80::1%eth0":       "neither an address nor a name",
	} {
		if _, err := policy.ParseRule(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// TestCovers compares services.
func TestCovers(t *testing.T) {
	for _, tt := range []struct {
		s, o string
		want bool
	}{
		{"tcp", "tcp/80", true},
		{"tcp/80", "tcp", false},
		{"tcp/80-90", "tcp/85", true},
		{"tcp/80-90", "tcp/85-91", false},
		{"tcp/80", "udp/80", false},
		{"icmp", "icmp", true},
	} {
		s, o := service(t, tt.s), service(t, tt.o)
		if s.Covers(o) != tt.want {
			t.Errorf("%s covers %s: %v", s, o, !tt.want)
		}
		if !(policy.Service{}).Covers(o) || o.Covers(policy.Service{}) {
			t.Errorf("%s beside everything", o)
		}
	}
}

func service(t *testing.T, text string) policy.Service {
	t.Helper()
	all, err := policy.ParseServices(text)
	if err != nil || len(all) != 1 {
		t.Fatalf("%q: %v, %v", text, all, err)
	}
	return all[0]
}

// TestMatches compares names.
func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		of, name string
		want     bool
	}{
		{"www.example.org", "www.example.org", true},
		{"www.example.org", "a.www.example.org", false},
		{"*.example.org", "a.b.example.org", true},
		{"*.example.org", "example.org", false},
		{"*.example.org", "badexample.org", false},
	} {
		if r := (policy.Remote{Name: tt.of}); r.Matches(tt.name) != tt.want {
			t.Errorf("%s matches %s: %v", tt.of, tt.name, !tt.want)
		}
	}
	if (policy.Remote{Set: "a"}).Matches("") {
		t.Error("a set matches no name")
	}
}

// TestPortHasFewRules has a port's rules be as few as a network's: each port and each remote of
// one is a rule of the kernel's.
func TestPortHasFewRules(t *testing.T) {
	c := policy.Context{Mode: "nat", Routed: true}
	for ports, want := range map[int]string{2048: "", 2049: "4098 pairs of what is opened and where, want at most 4096"} {
		var list []string
		for i := range ports {
			list = append(list, strconv.Itoa(2*i+1))
		}
		r, err := policy.ParseRule("egress reject tcp/" + strings.Join(list, ",") + " to @two")
		if err != nil {
			t.Fatal(err)
		}
		members, err := policy.ParseMembers("192.0.2.1 192.0.2.2")
		if err != nil {
			t.Fatal(err)
		}
		of := &policy.Rules{Sets: []policy.Set{{Name: "two", Members: members}}}
		got := ""
		if err := policy.CheckPort(c, of, []policy.Rule{r}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%d ports to two addresses: %q, want %q", ports, got, want)
		}
	}
}

// FuzzParseRule reads what is printed as it was.
func FuzzParseRule(f *testing.F) {
	f.Add("egress allow tcp/80,443 to *.example.org 192.0.2.0/24 @set log")
	f.Add("ingress drop icmp from ::/0")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := policy.ParseRule(text)
		if err != nil {
			return
		}
		again, err := policy.ParseRule(r.String())
		if err != nil {
			t.Fatalf("%q, printed %q: %v", text, r, err)
		}
		if diff := cmp.Diff(r, again, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("%q, printed and read again (-want +got):\n%s", text, diff)
		}
	})
}
