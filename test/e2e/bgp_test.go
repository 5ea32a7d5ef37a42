package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// rack is a router beside the hosts, which learns of their networks by BGP, and a machine behind
// it that knows no other way.
type rack struct {
	*spanLab
	router, outside *nstest.NS
	bird            *nstest.Bird
}

// birdConfig is the router's: each host may connect, or is connected.
func birdConfig(hosts int) string {
	text := "router id 203.0.113.254;\nprotocol device {}\nprotocol kernel { ipv4 { export all; }; }\nprotocol kernel { ipv6 { export all; }; }\n"
	for i := range hosts {
		text += fmt.Sprintf("protocol bgp h%d { local 203.0.113.254 as 64512; neighbor 203.0.113.%d as 64513; graceful restart on; ipv4 { import all; export none; }; }\n", i+1, i+11)
		text += fmt.Sprintf("protocol bgp s%d { local 2001:db8:ffff::254 as 64512; neighbor 2001:db8:ffff::%d as 64513; graceful restart on; ipv6 { import all; export none; }; }\n", i+1, i+11)
	}
	return text
}

// bgpConfig is that of each host.
const bgpConfig = `[bgp]
as = 64513
[[bgp.neighbour]]
address = "203.0.113.254"
as = 64512
connect_retry = "2s"
[[bgp.neighbour]]
address = "2001:db8:ffff::254"
as = 64512
connect_retry = "2s"
`

// newRack puts a router on the wire of the hosts, who send what they know no other way for by it.
func newRack(l *spanLab) *rack {
	l.Helper()
	r := &rack{spanLab: l, router: nstest.NewNS(l, "rack"), outside: nstest.NewNS(l, "outside")}
	nstest.IP(l, "link add rackw type veth peer name down0 netns rack")
	nstest.IP(l, "link set rackw master wire up")
	nstest.IP(l, "-n rack link add up0 type veth peer name eth0 netns outside")
	for _, args := range []string{
		"addr add 203.0.113.254/24 dev down0", "-6 addr add 2001:db8:ffff::254/64 dev down0 nodad", "link set down0 up",
		"addr add 198.51.100.1/24 dev up0", "-6 addr add 2001:db8:51::1/64 dev up0 nodad", "link set up0 up",
	} {
		r.router.IP(args)
	}
	r.router.Exec("sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding")
	for _, args := range []string{
		"addr add 198.51.100.2/24 dev eth0", "-6 addr add 2001:db8:51::2/64 dev eth0 nodad", "link set eth0 up",
		"route add default via 198.51.100.1", "-6 route add default via 2001:db8:51::1",
	} {
		r.outside.IP(args)
	}
	return r
}

// host makes a host on the wire with a way out by the rack, and vnetd not yet running.
func (r *rack) host(i int) *nstest.Host {
	r.Helper()
	h := nstest.NewHost(r, fmt.Sprintf("h%d", i+1))
	nstest.IP(r, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
	nstest.IP(r, fmt.Sprintf("link set wire%d master wire up", i+1))
	h.IP("link set eth0 up")
	h.IP(fmt.Sprintf("addr add 203.0.113.%d/24 dev eth0", i+11))
	h.IP(fmt.Sprintf("-6 addr add 2001:db8:ffff::%d/64 dev eth0 nodad", i+11))
	r.wayOut(h)
	return h
}

// wayOut has a host send by the rack what it knows no other way for.
func (r *rack) wayOut(h *nstest.Host) {
	h.IP("route add default via 203.0.113.254")
	h.IP("-6 route add default via 2001:db8:ffff::254")
}

// routes has the router know those routes by BGP, and no others.
func (r *rack) routes(want ...string) {
	r.Helper()
	nstest.Eventually(r, spanLimit, fmt.Sprintf("the router knows %q", want), func() error {
		has := r.learned()
		if strings.Count(has, " via ") != len(want) {
			return errors.New(has + r.bird.Do("show protocols"))
		}
		for _, w := range want {
			if !strings.Contains(has, w+" ") {
				return errors.New(has)
			}
		}
		return nil
	})
}

// learned are the routes that the router's kernel has by BGP.
func (r *rack) learned() string {
	return r.router.IP("-4 route show proto bird") + r.router.IP("-6 route show proto bird")
}

// reaches has the machine behind the router reach an address.
func (r *rack) reaches(address string) { r.Helper(); r.pings(r.outside, address) }

// lost collects what routes the router's kernel deletes until the function is called.
func (r *rack) lost() (end func() string) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	cmd := r.router.Command(ctx, "ip", "monitor", "route")
	said := new(bytes.Buffer)
	cmd.Stdout = said
	if err := cmd.Start(); err != nil {
		r.Fatal(err)
	}
	return func() string {
		cancel()
		_ = cmd.Wait() // killed
		var gone strings.Builder
		for line := range strings.Lines(said.String()) {
			if strings.HasPrefix(line, "Deleted ") {
				gone.WriteString(line)
			}
		}
		return gone.String()
	}
}

// up has both sessions of the only host be up.
func (r *rack) up() {
	r.Helper()
	nstest.Eventually(r, spanLimit, "vnetctl status shows both neighbours up", func() error {
		out := r.ctl(0, "", "status")
		if strings.Count(out, ": up for ") != 2 {
			return errors.New(out)
		}
		return nil
	})
}

// announcedNetwork is a network that routers are told of.
const announcedNetwork = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='route'/><bridge name='virbr7' stp='on' delay='0'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.10' end='10.50.1.99'/></dhcp></ip>
<ip family='ipv6' address='2001:db8:50::1' prefix='64'/>
<vnetd:announce/></network>`

// The routes to it.
var announcedRoutes = []string{"10.50.0.0/16 via 203.0.113.11", "2001:db8:50::/64 via 2001:db8:ffff::11"}

// newAnnounced is a host with that network defined, and a rack whose router it tells.
func newAnnounced(t *testing.T) (*rack, *nstest.Host) {
	t.Helper()
	l := &spanLab{T: t}
	nstest.IP(t, "link add wire type bridge mcast_snooping 0")
	nstest.IP(t, "link set wire up")
	r := newRack(l)
	h := r.host(0)
	l.hosts = append(l.hosts, h)
	h.Exec("sh", "-c", "printf '%s' \"$1\" >>/etc/vnetd/vnetd.toml", "sh", bgpConfig)
	r.bird = nstest.StartBird(t, r.router, birdConfig(1))
	h.StartVnetd()
	r.ctl(0, announcedNetwork, "define", "-")
	r.up()
	return r, h
}

// TestAnnounce has a machine behind a router reach guests by what BGP tells the router, from the
// start of the network on, and while vnetd or the program that speaks BGP is killed.
func TestAnnounce(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r, h := newAnnounced(t)
		if out := r.ctl(0, announcedNetwork, "plan", "-"); !strings.Contains(out, "Announced to routers by BGP") || !strings.Contains(out, "  10.50.0.0/16\n") {
			t.Errorf("the plan does not say what is announced:\n%s", out)
		}
		r.routes()
		r.ctl(0, "", "start", "apps")
		guest := r.guest(0, "a", client.PortOptions{Name: "a"})
		a4, a6 := r.lease(guest), r.address(guest, "-6", "2001:db8:50:")
		r.routes(announcedRoutes...)
		r.reaches(a4)
		r.reaches(a6)
		if out := r.ctl(0, "", "status", "apps"); !strings.Contains(out, "Announced: 10.50.0.0/16\n             2001:db8:50::/64\n") {
			t.Errorf("vnetctl status does not say what is announced:\n%s", out)
		}
		r.outlives(h, announcedRoutes, a4, a6)
	})
}

// TestAnnounceEnds has a router that was killed learn of a network anew, and forget it when it is
// stopped or cleaned up; not when a vnetd that runs is to be.
func TestAnnounceEnds(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		r, h := newAnnounced(t)
		r.ctl(0, "", "start", "apps")
		r.routes(announcedRoutes...)
		r.bird.Stop()
		r.bird.Start()
		r.routes(announcedRoutes...)
		r.ctl(0, "", "stop", "apps")
		r.routes()
		r.ctl(0, "", "start", "apps")
		r.routes(announcedRoutes...)
		if err := h.Command(t.Context(), h.Bin+"/vnetd", "--cleanup").Run(); err == nil {
			t.Error("a vnetd that runs is cleaned up after")
		}
		r.another(announcedRoutes) // of which the router keeps the rest
		h.KillVnetd()
		h.Exec(h.Bin+"/vnetd", "--cleanup")
		r.routes()
	})
}

// outlives has the router lose no route while vnetd, or the program by which it speaks, is killed.
func (r *rack) outlives(h *nstest.Host, routes []string, addresses ...string) {
	r.Helper()
	lost := r.lost()
	h.KillVnetd()
	for _, a := range addresses {
		r.reaches(a)
	}
	h.StartVnetd()
	r.up()
	r.another(routes)
	speaker := strings.TrimSpace(nstest.Exec(r, "pgrep", "-x", "-P", fmt.Sprint(h.VnetdPID()), "vnet-bgp"))
	nstest.Exec(r, "kill", "-KILL", speaker)
	nstest.Eventually(r, spanLimit, "the session that was cut off is seen to be", func() error {
		if out := h.Log(); !strings.Contains(out, "networks are not announced by BGP: trying again") {
			return errors.New(out)
		}
		return nil
	})
	r.up()
	r.another(routes)
	if gone := lost(); strings.Contains(gone, "10.50.0.0/16") || strings.Contains(gone, "2001:db8:50::/64") {
		r.Errorf("the router lost routes:\n%s", gone)
	}
}

// another has the router learn of another network and forget it, which it does once it has
// forgotten what it is told no more of.
func (r *rack) another(routes []string) {
	r.Helper()
	const other = `<network xmlns:vnetd='urn:vnetd:network:1'><name>other</name><forward mode='open'/><bridge name='virbr8'/><ip address='10.51.0.1' prefix='24'/>
<ip family='ipv6' address='2001:db8:51:8::1' prefix='64'/><vnetd:announce/></network>`
	r.ctl(0, other, "create", "-")
	r.routes(append(routes, "10.51.0.0/24 via 203.0.113.11", "2001:db8:51:8::/64 via 2001:db8:ffff::11")...)
	r.ctl(0, "", "stop", "other")
	r.routes(routes...)
}

// TestAnnounceMoves has a router send what is for a guest of a network that spans hosts to the
// host where the guest is: by its lease there, and to another one once it has moved.
func TestAnnounceMoves(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2, bgpConfig)
		r := newRack(l.spanLab)
		for _, h := range l.hosts {
			h.IP("-6 addr add 2001:db8:ffff::" + strings.TrimPrefix(h.Name, "h") + "1/64 dev eth0 nodad")
			r.wayOut(h)
		}
		r.bird = nstest.StartBird(t, r.router, birdConfig(2))
		document := strings.Replace(strings.Replace(clusterDocument, "<forward mode='nat'/>", "<forward mode='route'/>", 1), "</network>", "<vnetd:announce/></network>", 1)
		l.define(document)
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		r.routes(a4+" via 203.0.113.11", b4+" via 203.0.113.12")
		r.reaches(a4)
		r.reaches(b4)
		const mac, owner = "52:54:00:00:00:0a", "11111111-2222-4333-8444-555555555555"
		card, _ := net.ParseMAC(mac)
		options := client.PortOptions{Name: "m", MAC: card, OwnerUUID: owner}
		was := l.guest(0, "m", options)
		m4 := l.lease(was)
		r.routes(a4+" via 203.0.113.11", b4+" via 203.0.113.12", m4+" via 203.0.113.11")
		r.reaches(m4)
		l.knows(1, was)
		p, err := l.port(1, options)
		if err != nil {
			t.Fatal(err)
		}
		// Until it has sent something from there it is where it was.
		c4 := l.lease(l.guest(1, "c", client.PortOptions{Name: "c"}))
		others := []string{a4 + " via 203.0.113.11", b4 + " via 203.0.113.12", c4 + " via 203.0.113.12"}
		r.routes(append(others, m4+" via 203.0.113.11")...)
		is := nstest.Machine(t, "m2", mac, p.Files[0])
		was.IP("link set eth0 down")
		is.IP("addr add " + m4 + "/16 dev eth0")
		is.IP("link set eth0 up mtu 1450")
		is.IP("route add default via 10.50.0.1")
		l.pings(is, "10.50.0.1")
		r.routes(append(others, m4+" via 203.0.113.12")...)
		r.reaches(m4)
	})
}
