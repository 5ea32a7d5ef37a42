package graph_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/cmd/vnetctl/graph"
	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/pkg/api"
)

// A host of every mode, with guests behind ports and others, peers and forwards, is drawn as
// the golden files have it.
func TestGraph(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "status.json"))
	if err != nil {
		t.Fatal(err)
	}
	var s api.Status
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	g := graph.Of(s)
	var text, dot strings.Builder
	if err := g.Text(&text, nil); err != nil {
		t.Fatal(err)
	}
	if err := g.DOT(&dot); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{"tree.txt": text.String(), "graph.dot": dot.String()} {
		golden.Compare(t, filepath.Join("testdata", name), got)
	}
}

// Names of guests can't leave their line, nor their string.
func TestHostileNames(t *testing.T) {
	name := "a\"];\n\x1b[31m\\"
	s := api.Status{Networks: []api.NetworkStatus{{
		Network: api.Network{Name: "n", Mode: "nat", State: api.Active},
		Leases:  []api.Lease{{MAC: "52:54:00:00:00:01", Hostname: name}},
	}}}
	var text, dot strings.Builder
	if err := graph.Of(s).Text(&text, nil); err != nil {
		t.Fatal(err)
	}
	if err := graph.Of(s).DOT(&dot); err != nil {
		t.Fatal(err)
	}
	if got := text.String(); strings.ContainsRune(got, '\x1b') || strings.Count(got, "\n") != 3 {
		t.Errorf("the tree is %q", got)
	}
	for line := range strings.Lines(dot.String()) {
		if strings.ContainsRune(line, '\x1b') || strings.Count(strings.ReplaceAll(line, `\"`, ""), `"`)%2 != 0 {
			t.Errorf("a line of the graph is %q", line)
		}
	}
}
