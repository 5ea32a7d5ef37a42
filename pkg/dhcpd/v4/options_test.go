package v4_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
)

// A guest gets the options that are configured, and not the one that is taken away.
func TestConfiguredOptions(t *testing.T) {
	cfg := func() v4.Config {
		c := testConfig()
		c.Options = append(c.Options, dhcpd.Option{Code: 3}, dhcpd.Option{Code: 42, Value: serverAddr.AsSlice()})
		c.Reservations = append(c.Reservations, dhcpd.Reservation{MAC: mac(2), Addr: netip.MustParseAddr("192.0.2.20"), LeaseTime: 10 * time.Minute})
		c.BootFile, c.BootServer = "a.efi", netip.MustParseAddr("192.0.2.9")
		return c
	}
	simulated(t, cfg, func(t *testing.T, e *env) {
		r := e.selecting(mac(2), e.discover(mac(2)))
		e.want(r, "ACK 192.0.2.20")
		if got := codes(r); got != "1 6 15 28 42 51 53 54 58 59" {
			t.Errorf("options %s", got)
		}
		if r.BootFileName != "a.efi" || r.ServerIPAddr.String() != "192.0.2.9" || r.IPAddressLeaseTime(0) != 10*time.Minute {
			t.Errorf("got %v", r.Summary())
		}
	})
}
