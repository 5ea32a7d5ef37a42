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

// put writes the definition of a network into etcd, as a host does that may define.
func (l *clusterLab) put(name, xml string) {
	l.Helper()
	n := record.Network{XML: xml, Generation: 1, Autostart: true}
	key := record.Key{Kind: record.KindNetwork, Network: name}.Path("lab")
	if _, err := l.store.Txn(l.Context(), cluster.Txn{Then: []cluster.Op{{Key: key, Value: record.Encode(&n)}}}); err != nil {
		l.Fatal(err)
	}
}

// sharedDocument is another network of the cluster, with that VNI; 0 for none.
func sharedDocument(name string, vni int, inside string) string {
	number := fmt.Sprintf(" vni='%d'", vni)
	if vni == 0 {
		number = ""
	}
	return fmt.Sprintf("<network xmlns:vnetd='urn:vnetd:network:1'><name>%s</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f%02d</uuid><forward mode='nat'/>"+
		"<ip address='10.%[2]d.0.1' prefix='24'/>%[3]s<vnetd:span cluster='lab'%[4]s/></network>", name, vni, inside, number)
}

// refuses has a command fail on a host, and say why.
func (l *clusterLab) refuses(i int, stdin, why string, args ...string) {
	l.Helper()
	if r := l.hosts[i].Vnetctl(l.Context(), stdin, args...); r.Code == 0 || !strings.Contains(r.Stderr, why) {
		l.Errorf("h%d: vnetctl %s: %d, %s%s, want %q", i+1, strings.Join(args, " "), r.Code, r.Stdout, r.Stderr, why)
	}
}

// says waits until a command on a host, which may fail, prints something.
func (l *clusterLab) says(i int, what string, args ...string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("h%d: vnetctl %s says %q", i+1, strings.Join(args, " "), what), func() error {
		r := l.hosts[i].Vnetctl(l.Context(), "", args...)
		if !strings.Contains(r.Stdout, what) {
			return errors.New(r.Stdout + r.Stderr)
		}
		return nil
	})
}

// TestClusterNotTheirs has what another host writes not be believed where it is not its to say, or
// where this host would not reach the others by it; and what this host alone does not change what
// all have.
func TestClusterNotTheirs(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(clusterDocument)
		l.refuses(0, sharedDocument("lone", 21, ""), "a network of a cluster is defined, for all hosts", "create", "-")
		l.ctl(1, "<network><name>mine</name><uuid>6f0f6d4c-6a38-4a0c-8a8e-0d6a3f2b6f11</uuid><bridge name='virbr9'/></network>", "define", "-")
		l.hosts[1].IP("link add lan type bridge")
		l.hosts[1].IP("addr add 10.41.0.9/24 dev lan")
		l.hosts[1].IP("link set lan up")
		l.put("mine", sharedDocument("mine", 11, ""))
		l.put("zero", sharedDocument("zero", 0, ""))
		l.put("cuts", sharedDocument("cuts", 31, "<route address='203.0.113.0' prefix='30' gateway='10.31.0.9'/>"))
		l.put("later", sharedDocument("later", 41, ""))
		l.says(1, "mine: this host has a network of its own by that name", "doctor")
		l.says(1, "zero: the document is not that of network", "doctor")
		l.says(1, "cuts: network/vnetd:span/@cluster: 'lab': etcd is at 203.0.113.1, which is in the network's own route 203.0.113.0/30", "doctor")
		if out := l.ctl(1, "", "cat", "mine"); strings.Contains(out, "span") {
			t.Errorf("another host has changed this host's own network:\n%s", out)
		}
		l.says(1, "later failed", "list", "--format", "{{.name}} {{.state}}")
		l.hosts[1].IP("link del lan")
		l.says(1, "later active", "list", "--format", "{{.name}} {{.state}}")
		b := l.guest(1, "b", client.PortOptions{Name: "b"})
		b4 := l.lease(b)
		l.leavesOut(b, b4)
	})
}

// leavesOut has a host be left out on which guests run: they keep what they have, the host says so,
// and it changes nothing for the others any more.
func (l *clusterLab) leavesOut(b *nstest.NS, b4 string) {
	l.Helper()
	l.ctl(0, strings.Replace(clusterDocument, "<vnetd:span", "<vnetd:span hosts='h1'", 1), "define", "-")
	l.says(1, "apps active false", "list", "--format", "{{.name}} {{.state}} {{.persistent}}")
	l.says(1, "apps: this host is not among the network's hosts any more", "doctor")
	nstest.Eventually(l, spanLimit, "the other host sends nothing there", func() error {
		if fdb := l.hosts[0].Exec("bridge", "fdb", "show", "dev", "vx7"); strings.Contains(fdb, l.underlay(1)) {
			return errors.New(fdb)
		}
		return nil
	})
	l.refuses(1, "", "this host is not among its hosts", "set", "apps", "mtu=1400")
	if got := l.lease(b); got != b4 {
		l.Errorf("the guest has %s, had %s", got, b4)
	}
	l.ctl(1, "", "stop", "apps")
	l.says(0, "hosts='h1'", "cat", "apps", "--inactive")
	l.ctl(0, clusterDocument, "define", "-")
	l.says(1, "apps active true", "list", "--format", "{{.name}} {{.state}} {{.persistent}}")
}

// TestClusterSectionRemoved has the section of a cluster be removed from a host's vnetd.toml: its
// guests keep their addresses, and it gives none of which it can't know whose they are.
func TestClusterSectionRemoved(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.define(clusterDocument)
		b := l.guest(1, "b", client.PortOptions{Name: "b"})
		b4 := l.lease(b)
		l.hosts[1].KillVnetd()
		l.hosts[1].Exec("sed", "-i", "/^.cluster.lab/,$d", "/etc/vnetd/vnetd.toml")
		l.hosts[1].StartVnetd()
		l.says(1, "'lab': this host is not in that cluster: want a [cluster.lab] in its vnetd.toml", "status", "apps")
		c := l.guest(1, "c", client.PortOptions{Name: "c"})
		if out, err := c.Command(t.Context(), "udhcpc", "-f", "-q", "-n", "-t", "3", "-T", "1", "-i", "eth0").CombinedOutput(); err == nil {
			t.Errorf("a guest gets an address of which nobody else is told:\n%s", out)
		}
		if got := l.lease(b); got != b4 {
			t.Errorf("the guest has %s, had %s", got, b4)
		}
	})
}
