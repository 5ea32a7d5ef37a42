package main

import (
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// TestTop prints what happened between two counts.
func TestTop(t *testing.T) {
	s := newSession(t)
	count := func(n uint64) api.Counts {
		return api.Counts{
			Time: now.Add(time.Duration(n) * time.Second), Conntrack: &api.Conntrack{Entries: 130, Limit: 1000},
			Networks: []api.NetworkCounts{
				{Name: "default", UUID: "11111111-2222-4333-8444-555555555550", State: api.Active, Bridge: "virbr0", DHCP: 2 * n, DNS: 40 * n, Ports: []api.PortCounts{{
					UUID: "00000000-0000-4000-8000-000000000001", Name: "web1", MAC: "00:00:5e:00:53:0a", IfName: "vnet0",
					Receive: api.Traffic{Bytes: 2500 * n, Packets: 20 * n}, Transmit: api.Traffic{Bytes: 100 * n, Packets: n, Errors: n},
				}}},
				{Name: "lab", UUID: "11111111-2222-4333-8444-555555555555", State: api.Inactive, Bridge: "virbr1", Ports: []api.PortCounts{}},
			},
		}
	}
	s.server.SetCounts(count(0), count(1))
	for _, line := range []string{
		"top --once --interval 100ms", "top --interval 100ms --sort name lab", "top --json --interval 100ms default",
		"top none", "top --interval 1ms", "top --interval 2h", "top --sort colour", "top a b",
	} {
		s.run(line)
	}
	s.server.Fail("Count", "Denied", "not for you")
	s.run("top --once")
	s.check()
}
