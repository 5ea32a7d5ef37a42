package host

import (
	"errors"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// Functions finds the virtual functions of a card, by the name of its interface.
type Functions func(dev string) ([]translate.Function, error)

// NoParent is why doc, a network without a bridge, can have no port now: none of what its
// ports would be on is there. It is nil where one is, and for a network with a bridge.
func NoParent(links interface {
	Lookup(name string) (bridge.Link, error)
}, functions Functions, doc *netdef.Network,
) error {
	pool, err := translate.NewPool(doc, functions)
	if err != nil || len(pool.Devs) == 0 {
		return err
	}
	for _, dev := range pool.Devs {
		if _, err := links.Lookup(dev); !errors.Is(err, bridge.ErrNotFound) {
			return nil
		}
	}
	return api.Errorf(api.Conflict, "network/forward/interface: %s: no such link of this host: the network waits for it", strings.Join(pool.Devs, ", "))
}
