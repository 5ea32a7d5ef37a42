package dnsname_test

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/vnetd/vnetd/internal/dnsname"
)

// TestData reads the data of records and looks at what a resolver would see.
func TestData(t *testing.T) {
	for _, c := range []struct{ rtype, value, want string }{
		{"A", "192.0.2.1", "192.0.2.1"},
		{"AAAA", "2001:db8::1", "2001:db8::1"},
		{"CNAME", "bücher.example", "xn--bcher-kva.example."},
		{"TXT", `a "b", c; \d`, `"a \"b\", c; \\d"`},
		{"TXT", strings.Repeat("x", 300), `"` + strings.Repeat("x", 255) + `" "` + strings.Repeat("x", 45) + `"`},
		{"SRV", "0 5 443 host.example", "0 5 443 host.example."},
		{"MX", "10 mail.example", "10 mail.example."},
		{"CAA", `0 issue "ca.example; x=1"`, `0 issue "ca.example; x=1"`},
		{"HTTPS", "1 . alpn=h2,h3 ipv4hint=192.0.2.1", `1 . alpn="h2,h3" ipv4hint="192.0.2.1"`},
		{"SVCB", "0 other.example", "0 other.example."},

		{"A", "2001:db8::1", "! want an IPv4 address"},
		{"AAAA", "fe80::1%eth0", "! want an IPv6 address"},
		{"A", "", "! want an IPv4 address"},
		{"CNAME", "a..b", "! want labels of 1 to 63 characters between the dots"},
		{"TXT", "a\nb", "! want a text without line breaks"},
		{"SRV", "0 5 host.example", "! want the data of an SRV record, like 0 5 443 host.example"},
		{"MX", "", "! want the data of an MX record, like 10 mail.example"},
		{"MX", "10 mail.example ; a comment", `! want ';' between double quotes only`},
		{"MX", "10 mail.example\n. 0 IN A 192.0.2.1", `! want ASCII without control characters, not '\n'`},
		{"MX", "10 " + strings.Repeat("x", 64), "! want the data of an MX record, like 10 mail.example"},
		{"CAA", `0 issue "ca.example`, `! want the data of an CAA record, like 0 issue "ca.example"`},
		{"HTTPS", "x . alpn=h2", "! want the data of an HTTPS record, like 1 . alpn=h2,h3"},
		{"a", "192.0.2.1", "! want one of A, AAAA, CAA, CNAME, HTTPS, MX, SRV, SVCB, TXT"},
		{"NS", "ns.example", "! want one of A, AAAA, CAA, CNAME, HTTPS, MX, SRV, SVCB, TXT"},
	} {
		code, data, err := dnsname.Data(c.rtype, c.value)
		got := "! "
		if err != nil {
			got += err.Error()
		} else {
			b := append([]byte{0, byte(code >> 8), byte(code), 0, 1, 0, 0, 0, 0, byte(len(data) >> 8), byte(len(data))}, data...)
			seen, _, err := dns.UnpackRR(b, 0)
			if err != nil {
				t.Errorf("%s %q: %v", c.rtype, c.value, err)
				continue
			}
			got = strings.TrimPrefix(seen.String(), seen.Header().String())
		}
		if got != c.want {
			t.Errorf("%s %q: got %s, want %s", c.rtype, c.value, got, c.want)
		}
	}
}

// FuzzData: whatever is read is a record that can be read back.
func FuzzData(f *testing.F) {
	for _, rtype := range dnsname.Types() {
		f.Add(rtype, "0 5 443 host.example")
		f.Add(rtype, `0 issue "x"`)
		f.Add(rtype, "1 . alpn=h2 key65000=x")
	}
	f.Fuzz(func(t *testing.T, rtype, value string) {
		code, data, err := dnsname.Data(rtype, value)
		if err != nil {
			return
		}
		b := append([]byte{0, byte(code >> 8), byte(code), 0, 1, 0, 0, 0, 0, byte(len(data) >> 8), byte(len(data))}, data...)
		if _, end, err := dns.UnpackRR(b, 0); err != nil || end != len(b) || dns.TypeToString[code] != rtype {
			t.Fatalf("%s %q becomes type %d, %x: %v", rtype, value, code, data, err)
		}
	})
}
