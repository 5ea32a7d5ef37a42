package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// A network that is defined anew while it is active becomes what the document
// says, and its guest loses neither a packet nor its connection.
func TestRedefineUnderLoad(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, _ := begin(t)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		startDownload(t, ctx, s)
		inGuest(t, ctx, s, "ping -i 0.05 -c 100 "+nstest.LANHost+" >/tmp/pings 2>&1 && touch /tmp/pinged &")
		for _, change := range []struct{ old, new string }{
			{"192.168.10.254", "192.168.10.100"},
			{"delay='2'/>", "delay='2'/><domain name='vm.example'/>"},
			{"</network>", "<route address='198.51.100.0' prefix='24' gateway='192.168.10.10'/></network>"},
			{"<domain ", "<mtu size='1400'/><domain "},
		} {
			before := vnetctl(t, s.Lab, "cat", story.Network, "--inactive")
			after := strings.Replace(before, change.old, change.new, 1)
			if r := s.Lab.VnetctlInput(ctx, after, "define", "-"); after == before || r.Code != 0 {
				t.Fatalf("defining with %s: %v\n%s", change.new, r.Err(), after)
			}
		}
		inGuest(t, ctx, s, "for i in 1 2 3 4 5 6 7 8 9 10; do [ -e /tmp/pinged ] && break; sleep 1; done")
		if got := inGuest(t, ctx, s, "cat /tmp/pings"); !strings.Contains(got, " 0% packet loss") {
			t.Errorf("the guest's pings: %s", got)
		}
		finishDownload(t, ctx, s)
		if got := inGuest(t, ctx, s, fmt.Sprintf("nslookup -type=a %s.vm.example", story.Host)); !strings.Contains(got, "192.168.10.10") {
			t.Errorf("the guest asks for its name in the new domain: %s", got)
		}
		for what, want := range map[string]string{
			nstest.IP(t, "link show "+story.Bridge): "mtu 1400",
			nstest.IP(t, "route"):                   "198.51.100.0/24 via 192.168.10.10",
		} {
			if !strings.Contains(what, want) {
				t.Errorf("%q is not in %s", want, what)
			}
		}
	})
}
