package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	golibvirt "github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

// clusterLab is hosts of a cluster, whose etcd is in the test's own namespace.
type clusterLab struct {
	*spanLab
	etcd  *nstest.Etcd
	store *etcd.Store
}

// clusterDocument is a network of the cluster, the same on all hosts.
const clusterDocument = `<network xmlns:vnetd='urn:vnetd:network:1'><name>apps</name><forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.1.255'/></dhcp></ip>
<vnetd:span cluster='lab' vni='7' block='16'/></network>`

// hostLibvirt is where libvirt's clients find vnetd on a host of a cluster.
const hostLibvirt = "/run/libvirt.sock"

// newClusterLab starts etcd, and vnetd on all hosts, with more in its configuration.
func newClusterLab(t *testing.T, hosts int, more ...string) *clusterLab {
	t.Helper()
	const endpoint = "http://203.0.113.1:2379"
	l := &clusterLab{spanLab: &spanLab{T: t}}
	nstest.IP(t, "link add wire type bridge mcast_snooping 0")
	nstest.IP(t, "link set wire up")
	nstest.IP(t, "addr add 203.0.113.1/24 dev wire")
	l.etcd = nstest.StartEtcd(t, "--listen-client-urls", endpoint, "--advertise-client-urls", endpoint)
	store, err := etcd.Open(etcd.Config{Endpoints: []string{endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	l.store = store
	nstest.Eventually(t, spanLimit, "etcd has a cluster", func() error {
		return cluster.Init(t.Context(), store, "lab", "0b7c")
	})
	for i := range hosts {
		h := nstest.NewHost(t, fmt.Sprintf("h%d", i+1))
		nstest.IP(t, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
		nstest.IP(t, fmt.Sprintf("link set wire%d master wire up", i+1))
		h.IP("link set eth0 up")
		h.IP(fmt.Sprintf("addr add 203.0.113.%d/24 dev eth0", i+11))
		config := fmt.Sprintf("[cluster.lab]\nendpoints = [%q]\nhost = \"h%d\"\nunderlay = %q\ninsecure = true\nsession_ttl = \"5s\"\n[libvirt]\nsocket = %q\n", endpoint, i+1, l.underlay(i), hostLibvirt) + strings.Join(more, "")
		h.Exec("sh", "-c", "printf '%s' \"$1\" >>/etc/vnetd/vnetd.toml", "sh", config)
		h.StartVnetd()
		l.hosts = append(l.hosts, h)
	}
	return l
}

// define defines the network on one host, and waits until all have it, active.
func (l *clusterLab) define(document string) {
	l.Helper()
	l.ctl(0, document, "define", "-")
	l.ctl(0, "", "start", "apps")
	l.ctl(0, "", "enable", "apps")
	for i := range l.hosts {
		nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d has the network", i+1), func() error {
			r := l.hosts[i].Vnetctl(l.Context(), "", "list", "--format", "{{.name}} {{.state}} {{.autostart}}")
			if r.Stdout != "apps active true\n" {
				return errors.New(r.Stdout + r.Stderr)
			}
			return nil
		})
	}
}

// resolves has a guest find another by its name.
func (l *clusterLab) resolves(guest *nstest.NS, name, address string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, guest.Name+" finds "+name, func() error {
		out, _ := guest.Command(l.Context(), "dig", "+short", "+time=1", "+tries=1", "@10.50.0.1", name+".apps.test").Output()
		if strings.TrimSpace(string(out)) != address {
			return fmt.Errorf("got %q, want %s", out, address)
		}
		return nil
	})
}

// differ holds that no address is another guest's, too.
func (l *clusterLab) differ(addresses ...string) {
	l.Helper()
	seen := make(map[string]bool)
	for _, a := range addresses {
		if p, err := netip.ParseAddr(a); err != nil || !strings.HasPrefix(a, "10.50.1.") || seen[a] {
			l.Errorf("addresses %v (%v, %v): want each once, of the range", addresses, p, err)
		}
		seen[a] = true
	}
}

// TestCluster has a network be one on the hosts of a cluster, with one range of addresses for
// all: its guests reach each other by address and by name, each host knows where the others'
// guests are, and while etcd is away nothing ends.
func TestCluster(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(clusterDocument)
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(1, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		l.differ(a4, b4)
		l.pings(a, b4)
		l.pings(b, a4)
		l.resolves(a, "b", b4)
		l.resolves(b, "a", a4)
		l.knows(0, b)
		l.knows(1, a)
		l.moves(a, b)
		l.movesByLibvirt(a, b)
		l.away(a, b, a4, b4)
		l.redefine()
	})
}

// knows has a host know behind which host a guest is, by the cluster and not by its frames.
func (l *clusterLab) knows(i int, guest *nstest.NS) {
	l.Helper()
	mac := strings.TrimSpace(guest.Exec("cat", "/sys/class/net/eth0/address"))
	nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d knows where %s is", i+1, guest.Name), func() error {
		fdb, link := l.hosts[i].Exec("bridge", "fdb", "show", "dev", "vx7"), l.hosts[i].Exec("ip", "-d", "link", "show", "vx7")
		if !strings.Contains(fdb, mac+" dst "+l.underlay(1-i)+" self permanent") && !strings.Contains(fdb, mac+" dst "+l.underlay(1-i)+" self static") || !strings.Contains(link, "nolearning") {
			return errors.New(fdb + link)
		}
		return nil
	})
}

// moves has a guest move live from one host to another: it stays where it is until it has sent
// something by its new port, and keeps its address. Guests of both hosts reach it all the time,
// though both have a port of it. Another guest can't have its card.
func (l *clusterLab) moves(a, b *nstest.NS) {
	l.Helper()
	const mac, owner = "52:54:00:00:00:0a", "11111111-2222-4333-8444-555555555555"
	card, _ := net.ParseMAC(mac)
	options := client.PortOptions{Name: "m", MAC: card, OwnerUUID: owner}
	was := l.guest(0, "m", options)
	m4 := l.lease(was)
	l.knows(1, was)
	if _, err := l.port(1, client.PortOptions{MAC: card, OwnerUUID: "21111111-2222-4333-8444-555555555555"}); err == nil || !strings.Contains(err.Error(), "that of another guest, on host h1") {
		l.Errorf("another guest has the card %v as well: %v", card, err)
	}
	p, err := l.port(1, options)
	if err != nil {
		l.Fatal(err)
	}
	if fdb := l.hosts[0].Exec("bridge", "fdb", "show", "dev", "vx7"); strings.Contains(fdb, mac) {
		l.Errorf("it has moved before it ran:\n%s", fdb)
	}
	l.pings(a, m4)
	l.pings(b, m4)
	was.IP("link set eth0 down") // as a guest does not answer that stands still
	is := nstest.Machine(l.T, "m2", mac, p.Files[0])
	nstest.Eventually(l, spanLimit, "its new host has its lease", func() error {
		if out := l.ctl(1, "", "leases", "apps"); !strings.Contains(out, m4) {
			return errors.New(out)
		}
		return nil
	})
	if got := l.lease(is); got != m4 {
		l.Errorf("the guest has %s, had %s", got, m4)
	}
	l.pings(a, m4)
	l.pings(b, m4)
	l.resolves(b, "m", m4)
}

// movesByLibvirt has a guest move to a host whose libvirt tells vnetd of the port, and then makes the
// device by itself and tells the bridge of the card, which fails where the bridge knows it.
func (l *clusterLab) movesByLibvirt(a, b *nstest.NS) {
	l.Helper()
	const mac, owner, device = "52:54:00:00:00:0c", "31111111-2222-4333-8444-555555555555", "vnet9"
	card, _ := net.ParseMAC(mac)
	was := l.guest(0, "v", client.PortOptions{Name: "v", MAC: card, OwnerUUID: owner})
	v4 := l.lease(was)
	l.knows(1, was)
	h := l.hosts[1]
	virt := golibvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(fmt.Sprintf("/proc/%d/root%s", h.PID(), hostLibvirt))))
	if err := virt.Connect(); err != nil {
		l.Fatal(err)
	}
	defer func() { _ = virt.Disconnect() }()
	n, err := virt.NetworkLookupByName("apps")
	if err != nil {
		l.Fatal(err)
	}
	doc := fmt.Sprintf("<networkport><uuid>41111111-2222-4333-8444-555555555555</uuid><owner><name>v</name><uuid>%s</uuid></owner><mac address='%s'/></networkport>", owner, mac)
	if _, err := virt.NetworkPortCreateXML(n, doc, 0); err != nil {
		l.Fatal(err)
	}
	var tap *os.File
	if err := h.Do(func() (err error) {
		tap, err = nstest.OpenTAP(device)
		return err
	}); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = tap.Close() })
	h.IP("link set " + device + " address fe" + mac[2:] + " master virbr7 up")
	h.Exec("bridge", "link", "set", "dev", device, "learning", "off", "flood", "off")
	h.Exec("bridge", "fdb", "add", mac, "dev", device, "master", "static")
	l.pings(a, v4)
	l.pings(b, v4)
	was.IP("link set eth0 down")
	nstest.Machine(l.T, "v2", mac, tap).IP("addr add " + v4 + "/16 dev eth0")
	l.pings(a, v4)
	l.pings(b, v4)
	nstest.Eventually(l, spanLimit, "its host holds it to the port", func() error {
		fdb, link := h.Exec("bridge", "fdb", "show", "br", "virbr7"), h.Exec("bridge", "-d", "link", "show", "dev", device)
		if !strings.Contains(fdb, mac+" dev "+device+" sticky master virbr7") || !strings.Contains(link, "learning off") {
			return errors.New(fdb + link)
		}
		return nil
	})
}

// port is a port of the network on a host, until the test ends.
func (l *clusterLab) port(i int, options client.PortOptions) (*client.OpenPort, error) {
	l.Helper()
	l.Setenv("DBUS_SYSTEM_BUS_ADDRESS", l.hosts[i].Bus())
	c, err := client.Dial(l.Context())
	if err != nil {
		return nil, err
	}
	p, err := c.RequestPort(l.Context(), "apps", options)
	if err != nil {
		_ = c.Close()
		return nil, err
	}
	l.Cleanup(func() {
		_ = p.Close()
		_ = c.Close()
	})
	return p, nil
}

// away ends etcd: guests renew, new ones get addresses, and a vnetd that starts goes on.
func (l *clusterLab) away(a, b *nstest.NS, a4, b4 string) {
	l.Helper()
	l.etcd.Stop()
	again := l.lease(a)
	if r := l.hosts[0].Vnetctl(l.Context(), "", "set", "apps", "mtu=1400"); r.Code == 0 || !strings.Contains(r.Stderr, "cluster lab is away") && !strings.Contains(r.Stderr, "has not answered") {
		l.Errorf("a definition changes while the cluster is away: %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	c := l.guest(0, "c", client.PortOptions{Name: "c"})
	c4 := l.lease(c)
	l.hosts[1].KillVnetd()
	l.hosts[1].StartVnetd()
	d := l.guest(1, "d", client.PortOptions{Name: "d"})
	d4 := l.lease(d)
	l.differ(again, b4, c4, d4)
	if again != a4 {
		l.Errorf("the guest has %s, had %s", again, a4)
	}
	l.pings(a, b4)
	l.pings(b, a4)
	l.resolves(b, "a", a4)
	l.resolves(a, "b", b4)
	l.knows(1, a)
	nstest.Eventually(l, spanLimit, "the host says that the cluster is away", func() error {
		if out := l.ctl(0, "", "status", "apps"); !strings.Contains(out, "lab as host h1, away since ") || !strings.Contains(out, `cluster "lab" is away: guests go on`) {
			return errors.New(out)
		}
		return nil
	})
	l.etcd.Start()
	l.resolves(a, "d", d4)
	l.resolves(d, "c", c4)
	l.pings(d, c4)
}

// redefine has a change by one host be there on the others, but for what is a host's own, and the
// network be gone from all by one.
func (l *clusterLab) redefine() {
	l.Helper()
	own := strings.Replace(l.ctl(0, "", "cat", "apps", "--inactive"), "<vnetd:span", "<vnetd:access><vnetd:user name='nobody'/></vnetd:access><vnetd:span", 1)
	l.ctl(0, strings.Replace(own, "10.50.1.255", "10.50.2.255", 1), "define", "-")
	nstest.Eventually(l, spanLimit, "the other host has the change", func() error {
		out := l.ctl(1, "", "cat", "apps", "--inactive")
		if !strings.Contains(out, "10.50.2.255") || strings.Contains(out, "nobody") {
			return errors.New(out)
		}
		return nil
	})
	if out := l.ctl(0, "", "cat", "apps", "--inactive"); !strings.Contains(out, "nobody") {
		l.Errorf("the host has lost what is its own:\n%s", out)
	}
	l.ctl(1, "", "stop", "apps")
	l.ctl(1, "", "undefine", "apps")
	for i := range l.hosts {
		nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d has no definition any more", i+1), func() error {
			if out := l.hosts[i].Exec("ls", "/etc/vnetd/networks"); strings.Contains(out, "apps") {
				return errors.New(out)
			}
			return nil
		})
	}
}

// TestClusterOfOne has a host be the first of its cluster: it gives addresses before there are
// others, and takes no network on before it has reached etcd.
func TestClusterOfOne(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 1)
		l.hosts[0].KillVnetd()
		l.etcd.Stop()
		l.hosts[0].Exec("sh", "-c", "rm -f /var/lib/vnetd/cluster-lab.db")
		l.hosts[0].StartVnetd()
		auto := strings.Replace(clusterDocument, "vni='7'", "vni='auto'", 1)
		r := l.hosts[0].Vnetctl(t.Context(), auto, "define", "-")
		if r.Code == 0 || !strings.Contains(r.Stderr, "cluster lab is away, and no definition of its networks can change until it is back") {
			t.Errorf("without etcd: %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		if r := l.hosts[0].Vnetctl(t.Context(), strings.Replace(clusterDocument, "'lab'", "'home'", 1), "define", "-"); r.Code == 0 || !strings.Contains(r.Stderr, "want a [cluster.home] in its vnetd.toml") {
			t.Errorf("of another cluster: %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		l.etcd.Start()
		nstest.Eventually(t, spanLimit, "the host has joined", func() error {
			return l.hosts[0].Vnetctl(t.Context(), auto, "define", "-").Err()
		})
		l.ctl(0, auto, "define", "-") // it keeps its VNI
		if out := l.ctl(0, "", "status", "apps"); !strings.Contains(out, "Cluster") {
			t.Errorf("the status does not tell of the cluster:\n%s", out)
		}
		if r := l.hosts[0].Vnetctl(t.Context(), "", "rename", "apps", "other"); r.Code == 0 || !strings.Contains(r.Stderr, "which know it by its name") {
			t.Errorf("a rename: %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		l.ctl(0, "", "start", "apps")
		a, b := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(0, "b", client.PortOptions{Name: "b"})
		a4, b4 := l.lease(a), l.lease(b)
		l.differ(a4, b4)
		l.pings(a, b4)
		l.pings(b, "10.50.0.1")
		if out := l.ctl(0, clusterDocument, "plan", "-"); !strings.Contains(out, "vx7") || !strings.Contains(out, "203.0.113.11") {
			t.Errorf("the plan does not tell of the tunnel:\n%s", out)
		}
	})
}
