package v4_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// manyConfig is testConfig with short leases.
func manyConfig() v4.Config {
	cfg := testConfig()
	cfg.LeaseTime = dhcpdtest.ShortLease
	return cfg
}

// TestManyClients takes every client through its life: bound, renewed, rebound by
// broadcast after the server has started anew and does not hear what is sent to it
// alone, rebooted with the address that it had, released.
func TestManyClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := manyConfig()
		e := start(t, cfg, nil, v4.Open)
		var systems []*dhcpdtest.System
		for i, kind := range dhcpdtest.Kinds() {
			systems = append(systems, dhcpdtest.NewSystem(t, kind, fmt.Sprintf("g%d", i), mac(byte(0x40+i)).String(), ""))
			systems[i].Start("")
		}
		dhcpdtest.Expect(t, e.events, "bound", systems)
		had := make(map[*dhcpdtest.System]netip.Addr)
		for _, s := range systems {
			nstest.Eventually(t, dhcpdtest.StepLimit, s.Kind+" sets its address", func() error {
				if had[s] = s.Addr(); !had[s].IsValid() {
					return errors.New("none")
				}
				return nil
			})
		}
		e.events.Take()
		dhcpdtest.Expect(t, e.events, "renewed", systems)

		if err := e.stop(); err != nil {
			t.Fatal(err)
		}
		nstest.Exec(t, "iptables", "-A", "INPUT", "-p", "udp", "-d", serverAddr.String(), "--dport", "67", "-j", "DROP")
		e = start(t, cfg, nil, v4.Open)
		// On a machine with much to do a client may begin anew: it rebinds the next time.
		// busybox asks so late that its lease is over, by the server's clock.
		dhcpdtest.ExpectEach(t, e.events, systems, func(s *dhcpdtest.System) string {
			if s.Kind == "udhcpc" {
				return "renewed or bound"
			}
			return "renewed"
		})
		nstest.Exec(t, "iptables", "-F", "INPUT")

		for _, s := range systems {
			s.Stop(false)
			s.Start("")
		}
		e.events.Take()
		dhcpdtest.Expect(t, e.events, "renewed or bound", systems)
		for _, s := range systems {
			if got := s.Addr(); got != had[s] {
				t.Errorf("%s has %v after a reboot, had %v", s.Kind, got, had[s])
			}
			s.Stop(true)
		}
		dhcpdtest.Expect(t, e.events, "released", systems)
		if got := e.srv.Stats(); got.Nak != 0 {
			t.Errorf("counters %+v", got)
		}
	})
}

// TestClones has two machines of each kind send one client identifier, as copies of
// one disk do: each has an address of its own, and keeps it.
func TestClones(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge(t)
		cfg := manyConfig()
		cfg.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(200)}}
		e := start(t, cfg, nil, v4.Open)
		var systems []*dhcpdtest.System
		for i := range 2 * len(dhcpdtest.Kinds()) {
			s := dhcpdtest.NewSystem(t, dhcpdtest.Kinds()[i/2], fmt.Sprintf("g%d", i), mac(byte(0x40+i)).String(), "clone")
			s.Start("clone")
			systems = append(systems, s)
		}
		dhcpdtest.Expect(t, e.events, "bound", systems)
		dhcpdtest.Expect(t, e.events, "renewed", systems)
		ids := make(map[string][]dhcpd.Lease)
		for _, l := range e.srv.Leases() {
			ids[string(l.ClientID)] = append(ids[string(l.ClientID)], l)
		}
		if len(e.srv.Leases()) != len(systems) {
			t.Errorf("there are %d leases, want one for each of %d machines: %+v", len(e.srv.Leases()), len(systems), e.srv.Leases())
		}
		for id, leases := range ids {
			if len(leases)%2 != 0 || id == "" {
				t.Errorf("the identifier %q is that of %d leases, want those of both clones", id, len(leases))
			}
		}
	})
}
