package network

import (
	"fmt"
	"log/slog"
	"testing"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/env"
)

// Of many networks none costs memory when a link changes that is not theirs: thousands of such
// changes come while they start.
func TestOthersLinksCostNoMemory(t *testing.T) {
	e := env.New(env.Config{Logger: slog.New(slog.DiscardHandler)})
	defer e.Tasks.Close()
	c := newCatalog(e)
	for i := range 100 {
		doc, err := netdef.Parse(fmt.Appendf(nil, "<network><name>net%d</name><forward mode='nat'/><bridge name='virbr%d'/></network>", i, i))
		if err != nil {
			t.Fatal(err)
		}
		c.add(c.make(doc))
	}
	w := watcher{c}
	for what, do := range map[string]func(){
		"a change": func() { w.onChange(bridge.Change{Index: 99}) },
		"a link":   func() { w.onLink(bridge.LinkEvent{Link: bridge.Link{Index: 99, Name: "eno1"}}) },
	} {
		if n := testing.AllocsPerRun(100, do); n != 0 {
			t.Errorf("%s: %v allocations, want none", what, n)
		}
	}
}
