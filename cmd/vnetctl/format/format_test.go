package format_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/cmd/vnetctl/format"
)

// TestExecute prints parts of documents.
func TestExecute(t *testing.T) {
	type guest struct {
		Name  string   `json:"name"`
		Addrs []string `json:"addresses"`
		Bytes uint64   `json:"bytes"`
		Rate  float64  `json:"rate"`
		Owner *string  `json:"owner"`
	}
	web := guest{"web\x1b[2J1", []string{"192.0.2.1", "2001:db8::1"}, 12345678, 0.5, nil}
	for _, tt := range []struct {
		template string
		v        any
		want     string
		fails    string
	}{
		{"{{.name}}", web, "web?[2J1\n", ""},
		{"{{.name}} {{.bytes}} {{.rate}}", []guest{web, {Name: "two"}}, "web?[2J1 12345678 0.5\ntwo 0 0\n", ""},
		{"{{join \",\" .addresses}} {{json .addresses}}", web, "192.0.2.1,2001:db8::1 [\"192.0.2.1\",\"2001:db8::1\"]\n", ""},
		{"{{range .addresses}}{{.}}\n{{end}}", web, "192.0.2.1\n2001:db8::1\n\n", ""},
		{"{{if gt .bytes 5}}big{{end}}", web, "big\n", ""},
		{"{{.name}}", []guest{}, "", ""},
		{"{{.a.b}}", json.RawMessage(`{"a":{"b":7}}`), "7\n", ""},
		{"{{.nmae}}", web, "", `--format: there is no key "nmae": want one of addresses, bytes, name, owner, rate`},
		{"{{.name.first}}", web, "", "can't evaluate field first"},
	} {
		f, err := format.Parse(tt.template)
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		switch err := f.Execute(&out, tt.v); {
		case tt.fails == "" && (err != nil || out.String() != tt.want):
			t.Errorf("%s prints %q: %v, want %q", tt.template, out.String(), err, tt.want)
		case tt.fails != "" && (err == nil || !strings.Contains(err.Error(), tt.fails)):
			t.Errorf("%s: %v, want %s", tt.template, err, tt.fails)
		}
	}
	if _, err := format.Parse("{{"); err == nil || !strings.Contains(err.Error(), "{{.name}}") {
		t.Errorf("a template that is none: %v", err)
	}
}
