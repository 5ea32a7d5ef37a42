package health_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network/health"
)

// TestBGP finds routers that have been down for a while, and networks that nobody is told of.
func TestBGP(t *testing.T) {
	announced := func() []string { return []string{"a", "b"} }
	found, err := health.BGP(announced, func() *api.BGP { return nil }).Find(t.Context())
	if err != nil || len(found) != 2 || found[1].Kind != "bgp-not-configured" || found[1].Networks[0] != "b" || found[1].Remedy == "" {
		t.Errorf("without a [bgp]: %+v, %v", found, err)
	}
	n := func(up bool, since time.Duration) api.BGPNeighbour {
		return api.BGPNeighbour{Address: netip.MustParseAddr("192.0.2.1"), AS: 64512, Up: up, Since: time.Now().Add(-since), Reason: "connection refused"}
	}
	status := &api.BGP{Neighbours: []api.BGPNeighbour{n(true, time.Hour), n(false, time.Second)}}
	find := health.BGP(announced, func() *api.BGP { return status }).Find
	if found, err := find(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("of neighbours that are up, or have just gone down: %+v, %v", found, err)
	}
	status.Neighbours[1] = n(false, time.Minute)
	found, err = find(t.Context())
	if err != nil || len(found) != 1 || found[0].Kind != "bgp-neighbour-down" || found[0].Evidence != "connection refused" || len(found[0].Networks) != 2 {
		t.Errorf("of a neighbour that is down: %+v, %v", found, err)
	}
}
