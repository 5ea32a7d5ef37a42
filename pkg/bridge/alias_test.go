package bridge_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// TestAlias has links say of themselves what they are: one that says something keeps it.
func TestAlias(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		cfg := defaultConfig()
		cfg.Alias = "mark " + strings.Repeat("x", 250) // as long as the kernel takes
		index := ensure(t, b, cfg)
		nstest.IP(t, "link add eth7 type veth peer name eth8")
		if l, err := b.Lookup(name); err != nil || l.Alias != cfg.Alias {
			t.Errorf("alias %q, %v, want %q", l.Alias, err, cfg.Alias)
		}
		if all, err := b.Aliased("mark "); err != nil || len(all) != 1 || all[0].Index != index {
			t.Errorf("links with the alias: %+v, %v", all, err)
		}
		nstest.IP(t, "link set "+name+" alias other")
		ensure(t, b, cfg)
		if l, err := b.Lookup(name); err != nil || l.Alias != "other" {
			t.Errorf("alias %q, %v, want that which an admin set", l.Alias, err)
		}
		if err := b.SetAlias(index, "mark again"); err != nil {
			t.Error(err)
		}
		if all, err := b.Aliased("mark "); err != nil || len(all) != 1 {
			t.Errorf("links with the alias: %+v, %v", all, err)
		}
		if err := b.SetAlias(4711, "mark"); !errors.Is(err, bridge.ErrNotFound) {
			t.Errorf("alias of no link: %v, want %v", err, bridge.ErrNotFound)
		}
	})
}
