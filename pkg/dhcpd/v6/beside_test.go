package v6_test

import (
	"bufio"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/dhcpd/dhcpdtest"
	"github.com/vnetd/vnetd/pkg/dhcpd/v4"
	"github.com/vnetd/vnetd/pkg/dhcpd/v6"
)

// A dnsmasq of another bridge starts beside the servers of both families, though it
// binds their ports on all interfaces before it says which is its own.
func TestBesideDnsmasq(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dhcpdtest.MakeBridge6(t)
		four, err := v4.Open(v4.Config{
			Settings: dhcpd.Settings{
				Network:   "test",
				Interface: "br0",
				MAC:       mac(1),
				Server:    ip(1),
				Prefix:    netip.PrefixFrom(ip(0), 24),
				Store:     dhcpdtest.NewStore(),
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = four.Close() }()
		six, err := v6.Open(testConfig6())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = six.Close() }()
		nstest.IP(t, "link add br9 type bridge")
		nstest.IP(t, "addr add 198.51.100.1/24 dev br9")
		nstest.IP(t, "addr add 2001:db8:9::1/64 dev br9 nodad")
		nstest.IP(t, "link set br9 up")
		// As libvirt starts it.
		cmd := exec.Command("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--except-interface=lo", "--bind-dynamic", "--interface=br9",
			"--dhcp-range=198.51.100.2,198.51.100.9", "--dhcp-range=2001:db8:9::2,2001:db8:9::9,64", "--enable-ra", "--leasefile-ro", "--port=0", "--pid-file=")
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = cmd.Process.Kill(), cmd.Wait() }()
		var said []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			said = append(said, lines.Text())
			if strings.Contains(lines.Text(), "sockets bound exclusively to interface br9") {
				return
			}
		}
		t.Errorf("dnsmasq ended:\n%s", strings.Join(said, "\n"))
	})
}
