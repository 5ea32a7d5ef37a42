package v6_test

import (
	"fmt"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
)

// NetworkManager's own client asks for an address because the router says so, and has it
// again after a reboot.
func TestNetworkManager6(t *testing.T) {
	const hw = "00:00:5e:00:53:47"
	nstest.Run(t, func(t *testing.T) {
		e, _ := clientEnv6(t, "00:00:5e:00:53:46")
		s := dhcpdtest.NewSystem(t, "NetworkManager", "g2", hw, "")
		s.Start("")
		had := addr6(s, e)
		e.wantLease(hw, "nmguest")
		s.Stop(false)
		s.Guest.IP("-6 addr flush dev eth0")
		s.Start("")
		if got := addr6(s, e); got != had {
			t.Errorf("the guest has %v after a reboot, had %v", got, had)
		}
	})
}

// Windows 10 names its vendor class and its whole name, asks for vendor options and the
// refresh time as well, and keeps its address when it renews and after a sleep.
func TestWindows6(t *testing.T) {
	simulated6(t, testConfig6(), func(t *testing.T, e *env6) {
		sent := []mod6{
			raw6(dhcpv6.OptionElapsedTime, 0, 0), fqdn6("DESKTOP-4F2K9"), raw6(dhcpv6.OptionVendorClass, append([]byte{0, 0, 1, 0x37, 0, 8}, "MSFT 5.0"...)...),
			raw6(dhcpv6.OptionORO, 0, 17, 0, 23, 0, 24, 0, 32),
		}
		e.send(e.message(dhcpv6.MessageTypeSolicit, 2, append(sent, iana6(1))...))
		r := e.receive()
		a := address(t, r)
		if got := fmt.Sprintf("%v %v %x", r.Options.DNS(), r.Options.DomainSearchList().Labels, r.GetOneOption(dhcpv6.OptionFQDN).ToBytes()); got !=
			"[2001:db8:1::1] [vm.example] 030d4445534b544f502d3446324b3902766d076578616d706c6500" {
			t.Errorf("told %s", got)
		}
		leased := fmt.Sprintf("REPLY 1:%v", a)
		e.want(e.ask(dhcpv6.MessageTypeRequest, 2, append(sent, ours, iana6(1, a))...), leased)
		e.want(e.ask(dhcpv6.MessageTypeRenew, 2, append(sent, ours, iana6(1, a))...), leased)
		e.want(e.ask(dhcpv6.MessageTypeConfirm, 2, append(sent, iana6(1, a))...), "REPLY Success")
		e.want(e.ask(dhcpv6.MessageTypeRebind, 2, append(sent, iana6(1, a))...), leased)
		if l := e.srv.Leases(); len(l) != 1 || l[0].Hostname != "DESKTOP-4F2K9" {
			t.Errorf("leases are %+v", l)
		}
	})
}
