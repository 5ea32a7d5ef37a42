package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// ownDocument is the network as one of a host's own.
const ownDocument = `<network><name>apps</name>%s<forward mode='nat'/><bridge name='virbr7' stp='on' delay='0'/><domain name='apps.test' localOnly='yes'/>
<ip address='10.50.0.1' prefix='16'><dhcp><range start='10.50.1.0' end='10.50.1.255'/></dhcp></ip></network>`

// own defines and starts the network on a host as its own.
func (l *clusterLab) own(i int, uuid string) {
	l.Helper()
	l.ctl(i, fmt.Sprintf(ownDocument, uuid), "define", "-")
	l.ctl(i, "", "start", "apps")
	l.ctl(i, "", "enable", "apps")
}

// isOn waits until a host has the network, active.
func (l *clusterLab) isOn(i int) {
	l.Helper()
	l.says(i, "apps active true", "list", "--format", "{{.name}} {{.state}} {{.autostart}}")
}

// keys are those that etcd has, but for what hosts say of themselves.
func (l *clusterLab) keys() (all []string) {
	l.Helper()
	list, err := l.store.List(l.Context(), record.Prefix("lab"), 0)
	if err != nil {
		l.Fatal(err)
	}
	for _, kv := range list.KVs {
		if k, err := record.Parse("lab", kv.Key); err == nil && k.Kind != record.KindMember && k.Kind != record.KindAlive && k.Kind != record.KindMeta {
			all = append(all, kv.Key)
		}
	}
	return all
}

// none waits until etcd has nothing of the network but those keys.
func (l *clusterLab) none(but ...string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, "etcd has nothing of the network", func() error {
		if got := l.keys(); strings.Join(got, " ") != strings.Join(but, " ") {
			return fmt.Errorf("it has %q, want %q", got, but)
		}
		return nil
	})
}

// links are the devices of the network on a host as guests notice them: another one has another number.
func (l *clusterLab) links(i int) string {
	l.Helper()
	return l.hosts[i].Exec("sh", "-c", "ip -o link show type bridge; ip -o link show type tun")
}

// TestClusterSpan has a network, with guests at work, become one of a cluster's, and be each
// host's own again: guests keep their addresses, their links and their gateway, and lose no packet.
func TestClusterSpan(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.own(0, "")
		a, c := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(0, "c", client.PortOptions{Name: "c"})
		a4, c4 := l.lease(a), l.lease(c)
		links := l.links(0)
		near, gateway := l.counts(a, c4), l.counts(a, "10.50.0.1")
		out := l.ctl(0, "", "span", "apps", "--block", "16")
		if !strings.Contains(out, "vnetd:span") || strings.Contains(out, "pending") {
			t.Errorf("vnetctl span says:\n%s", out)
		}
		l.isOn(1)
		b := l.guest(1, "b", client.PortOptions{Name: "b"})
		b4 := l.lease(b)
		l.differ(a4, b4, c4)
		l.pings(b, a4)
		l.pings(a, b4)
		l.resolves(b, "c", c4)
		near.end("between guests of the host")
		gateway.end("to the gateway")
		if now := l.links(0); now != links {
			t.Errorf("links were\n%s\nare\n%s", links, now)
		}
		l.covered(a4, c4)
		l.large(a, c4, b, b4)
		if again := l.lease(a); again != a4 {
			t.Errorf("the guest has %s, had %s", again, a4)
		}
		if r := l.hosts[0].Vnetctl(t.Context(), "", "span", "apps"); r.Code == 0 || !strings.Contains(r.Stderr, "it spans hosts already") {
			t.Errorf("a second time: %d, %s%s", r.Code, r.Stdout, r.Stderr)
		}
		l.refuses(0, fmt.Sprintf(ownDocument, ""), `"vnetctl unspan apps" makes it each host's own`, "define", "-")
		l.apart(a, a4, b, b4, c4)
	})
}

// covered holds that addresses are of blocks of the first host.
func (l *clusterLab) covered(addresses ...string) {
	l.Helper()
	keys := strings.Join(l.keys(), " ")
	for _, a := range addresses {
		var last int
		if _, err := fmt.Sscanf(a, "10.50.1.%d", &last); err != nil {
			l.Fatal(err)
		}
		block := fmt.Sprintf("/vnetd/1/lab/b/apps/010.050.001.%03d-28", last&^15)
		kv, err := l.store.List(l.Context(), block, 0)
		if err != nil || len(kv.KVs) != 1 || !strings.Contains(string(kv.KVs[0].Value), `"h1"`) || !strings.Contains(keys, "/vnetd/1/lab/h/h1/l/apps/"+a) {
			l.Errorf("%s is not in a block of h1 (%v), or not told: %+v, %s", a, err, kv.KVs, keys)
		}
	}
}

// large has guests with the MTU that they had before go on with each other, and reach others.
func (l *clusterLab) large(a *nstest.NS, near string, b *nstest.NS, far string) {
	l.Helper()
	if out := a.IP("link show eth0"); !strings.Contains(out, "mtu 1500") {
		l.Fatalf("the guest has another MTU already:\n%s", out)
	}
	for _, size := range []string{"1472", "1430"} {
		if out, err := a.Command(l.Context(), "ping", "-c3", "-W5", "-M", "do", "-s", size, near).CombinedOutput(); err != nil {
			l.Errorf("%s bytes do not reach a guest of the same host: %s", size, out)
		}
	}
	if out, err := a.Command(l.Context(), "ping", "-c1", "-W5", "-M", "do", "-s", "1472", far).CombinedOutput(); err == nil || !strings.Contains(string(out), "mtu=1450") && !strings.Contains(string(out), "mtu = 1450") {
		l.Errorf("the guest is not told that its packets are too large for another host: %v, %s", err, out)
	}
	l.transfers(a, b, far)
	if out := b.IP("link show eth0"); !strings.Contains(out, "mtu 1450") {
		l.Errorf("a new guest is told of another MTU:\n%s", out)
	}
}

// apart has the network be each host's own again.
func (l *clusterLab) apart(a *nstest.NS, a4 string, b *nstest.NS, b4, c4 string) {
	l.Helper()
	near, far, links := l.counts(a, c4), l.counts(b, "10.50.0.1"), l.links(1)
	if out := l.ctl(1, "", "unspan", "apps"); strings.Contains(out, "pending") {
		l.Errorf("vnetctl unspan says:\n%s", out)
	}
	for i := range l.hosts {
		nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d has a network of its own", i+1), func() error {
			left := l.hosts[i].Exec("sh", "-c", "ip -br link; nft list tables") + l.ctl(i, "", "cat", "apps") + l.ctl(i, "", "cat", "apps", "--inactive")
			if strings.Contains(left, "vx") || strings.Contains(left, "span") {
				return errors.New(left)
			}
			return nil
		})
		l.isOn(i)
	}
	near.end("between guests of the host")
	far.end("to the gateway")
	if now := l.links(1); now != links {
		l.Errorf("links were\n%s\nare\n%s", links, now)
	}
	for guest, had := range map[*nstest.NS]string{a: a4, b: b4} {
		if again := l.lease(guest); again != had {
			l.Errorf("the guest %s has %s, had %s", guest.Name, again, had)
		}
	}
	if out, err := b.Command(l.Context(), "ping", "-c1", "-W1", a4).CombinedOutput(); err == nil {
		l.Errorf("the guests reach each other still: %s", out)
	}
	l.none("/vnetd/1/lab/n/apps")
	l.hosts[0].KillVnetd()
	l.hosts[0].StartVnetd()
	l.isOn(0)
	if out := l.hosts[0].Vnetctl(l.Context(), "", "doctor").Stdout; strings.Contains(out, "cluster") {
		l.Errorf("the doctor says of it:\n%s", out)
	}
}

// TestClusterSpanRefused has what is in the way of a network that shall be one of a cluster's be
// told, all of it, and nothing change: two hosts have one of that name, or the cluster is away.
func TestClusterSpanRefused(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		const uuid = "<uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid><mac address='52:54:00:00:00:fe'/>"
		l.own(0, uuid)
		l.own(1, uuid)
		a, b := l.guest(0, "a", client.PortOptions{}), l.guest(1, "b", client.PortOptions{})
		a4, b4 := l.lease(a), l.lease(b)
		l.etcd.Stop()
		l.refuses(0, "", "cluster lab ", "span", "apps", "--cluster", "lab")
		l.etcd.Start()
		l.says(0, "reached", "cluster", "status")
		l.none()
		l.refuses(0, "", "want a [cluster.home]", "span", "apps", "--cluster", "home")
		l.ctl(0, "", "span", "apps", "--block", "256", "--vni", "77") // all addresses are its
		was := l.ctl(1, "", "cat", "apps", "--inactive")
		l.says(1, "apps: this host has a network of its own by that name", "doctor")
		l.refuses(1, "", b4+", which ", "span", "apps", "--block", "256")
		for block, want := range map[string]string{"256": b4 + ", which ", "16": "block='16'"} {
			doc := strings.NewReplacer("<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", "</network>", "<vnetd:span cluster='lab' block='"+block+"' vni='77'/></network>").Replace(was)
			if r := l.hosts[1].Vnetctl(t.Context(), doc, "plan", "-"); r.Code == 0 || !strings.Contains(r.Stdout, want) {
				t.Errorf("the plan is %d, %s%s, want %q", r.Code, r.Stdout, r.Stderr, want)
			}
		}
		l.refuses(1, "", "block='16'", "span", "apps", "--block", "16", "--vni", "77")
		l.ctl(1, "<network><name>other</name><ip address='10.51.0.1' prefix='24'/></network>", "define", "-")
		l.refuses(1, "", "VNI 77 is that of another network of the cluster", "span", "other", "--vni", "77")
		if is := l.ctl(1, "", "cat", "apps", "--inactive"); is != was {
			t.Errorf("the network was\n%s\nis\n%s", was, is)
		}
		for guest, had := range map[*nstest.NS]string{a: a4, b: b4} {
			if again := l.lease(guest); again != had {
				t.Errorf("the guest %s has %s, had %s", guest.Name, again, had)
			}
		}
		c := l.guest(1, "c", client.PortOptions{})
		l.differ(b4, l.lease(c)) // the host gives addresses as before
		l.ctl(1, "", "stop", "apps")
		l.ctl(1, "", "undefine", "apps")
		l.ctl(1, fmt.Sprintf(ownDocument, "<uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f12</uuid>"), "define", "-")
		l.refuses(1, "", "the cluster has another network of that name, with uuid 6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11", "span", "apps")
	})
}

// TestClusterSpanResumed has vnetd end once the cluster has heard of a network of this host's, and
// before the host has it as one of the cluster's, or has only stored that it is: the next one goes on. A
// network that another host made the cluster's is left alone, whatever it is called.
func TestClusterSpanResumed(t *testing.T) {
	nstest.Beside(t)
	for _, tt := range []struct {
		name   string
		stored bool
	}{{"told", false}, {"stored", true}} {
		t.Run(tt.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) { newClusterLab(t, 2).resumes(tt.stored) })
		})
	}
}

// resumes is TestClusterSpanResumed, of a definition that the host has stored or has not.
func (l *clusterLab) resumes(stored bool) {
	l.Helper()
	const uuid = "<uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid><mac address='52:54:00:00:00:fe'/>"
	l.own(0, uuid)
	l.own(1, uuid)
	a, b := l.guest(0, "a", client.PortOptions{}), l.guest(1, "b", client.PortOptions{})
	a4, b4 := l.lease(a), l.lease(b)
	l.hosts[0].KillVnetd()
	xml := strings.NewReplacer("<network>", "<network xmlns:vnetd='urn:vnetd:network:1'>", "</network>", "<mtu size='1450'/><vnetd:span cluster='lab' vni='77' block='16'/></network>",
		"delay='0'", "delay='0' macTableManager='libvirt'").Replace(fmt.Sprintf(ownDocument, uuid))
	if stored {
		l.hosts[0].Exec("sh", "-c", `printf '%s' "$1" >/etc/vnetd/networks/apps.xml`, "sh", xml)
	}
	n := record.Network{XML: xml, Generation: 1, Autostart: true, Origin: "h1"}
	op := cluster.Op{Key: record.Key{Kind: record.KindNetwork, Network: "apps"}.Path("lab"), Value: record.Encode(&n)}
	if _, err := l.store.Txn(l.Context(), cluster.Txn{Then: []cluster.Op{op}}); err != nil {
		l.Fatal(err)
	}
	l.hosts[0].StartVnetd()
	nstest.Eventually(l, spanLimit, "the host has the network as one of the cluster's", func() error {
		out := l.hosts[0].Exec("ip", "-o", "link", "show", "type", "vxlan") + l.ctl(0, "", "status", "apps")
		if !strings.Contains(out, "vx77") || !strings.Contains(out, "VNI 77") || strings.Contains(out, "Pending") {
			return errors.New(out)
		}
		return nil
	})
	l.says(1, "apps: this host has a network of its own by that name", "doctor")
	l.covered(a4)
	for guest, had := range map[*nstest.NS]string{a: a4, b: b4} {
		if again := l.lease(guest); again != had {
			l.Errorf("the guest %s has %s, had %s", guest.Name, again, had)
		}
	}
}

// TestClusterSpanStopped has a network that is not active become one of a cluster's, and a host's own
// again: its guests have their addresses again once it is started.
func TestClusterSpanStopped(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 1)
		l.own(0, "")
		a := l.guest(0, "a", client.PortOptions{})
		a4 := l.lease(a)
		for _, verb := range [][]string{{"span", "apps", "--block", "16"}, {"unspan", "apps"}} {
			l.ctl(0, "", "stop", "apps")
			l.ctl(0, "", verb...)
			if verb[0] == "span" {
				l.covered(a4)
			}
			l.ctl(0, "", "start", "apps")
			if again := l.lease(a); again != a4 {
				t.Errorf("after %s the guest has %s, had %s", verb[0], again, a4)
			}
		}
		l.none("/vnetd/1/lab/n/apps")
	})
}
