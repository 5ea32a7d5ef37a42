package dnsname_test

import (
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/dnsname"
)

func TestNames(t *testing.T) {
	label, long := strings.Repeat("a", 63), strings.Repeat("abcdefghi.", 25)
	for _, c := range []struct{ name, record, host string }{
		{"web", "web", "web"},
		{"Web.Example.", "Web.Example", "Web.Example"},
		{"a_b.example", "a_b.example", "a_b.example"},
		{"-a-.example", "-a-.example", "-a-.example"},
		{label + ".example", label + ".example", label + ".example"},
		{"bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"BÜCHER_1", "xn--bcher_1-n2a", "xn--bcher_1-n2a"},
		{"*.example", "*.example", ""},
		{`_a/b*._tcp.e"f\g`, `_a/b*._tcp.e"f\g`, ""},
		{long + "abc", long + "abc", long + "abc"},
		{long + "abcd", "", ""},
		{"", "", ""},
		{".", "", ""},
		{"a..b", "", ""},
		{".a", "", ""},
		{"a" + label, "", ""},
		{strings.Repeat("ü", 60), "", ""},
		{"a b", "", ""},
		{"a,b", "", ""},
		{"a\nb", "", ""},
		{"a\rb", "", ""},
		{"a\x00b", "", ""},
		{"a\u00a0b", "", ""},
		{"\xff", "", ""},
	} {
		for _, rule := range []struct {
			what string
			of   func(string) (string, error)
			want string
		}{{"Record", dnsname.Record, c.record}, {"Host", dnsname.Host, c.host}} {
			got, err := rule.of(c.name)
			if got != rule.want || (err == nil) != (rule.want != "") {
				t.Errorf("%s(%q) = %q, %v, want %q", rule.what, c.name, got, err, rule.want)
			}
		}
	}
}

func TestValues(t *testing.T) {
	for _, c := range []struct {
		value string
		ok    bool
	}{
		{"", true},
		{"v=spf1 -all,\"a,b\"\t⛄", true},
		{strings.Repeat("x", 8160), true},
		{strings.Repeat("x", 8161), false},
		{"a\nb", false},
		{"a\rb", false},
	} {
		if err := dnsname.Text(c.value); (err == nil) != c.ok {
			t.Errorf("Text(%.20q): %v", c.value, err)
		}
	}
	if dnsname.Service(strings.Repeat("s", 62)) != nil || dnsname.Service(strings.Repeat("s", 63)) == nil {
		t.Error("a service has up to 62 characters behind its underscore")
	}
}

// FuzzNames holds every name that is accepted to what the wire can carry.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"a.b", "bücher", "*", "a..b", "xn--", "\xff", "a\u200db", strings.Repeat("ü.", 99)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		for _, rule := range []func(string) (string, error){dnsname.Record, dnsname.Host} {
			ascii, err := rule(name)
			if err != nil {
				continue
			}
			octets := 1
			for label := range strings.SplitSeq(ascii, ".") {
				octets += 1 + len(label)
				if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return r <= ' ' || r > '~' }) {
					t.Errorf("%q has the label %q", name, label)
				}
			}
			if again, err := rule(ascii); octets > 255 || again != ascii || err != nil {
				t.Errorf("%q becomes %q, %d octets, and that %q, %v", name, ascii, octets, again, err)
			}
		}
	})
}
