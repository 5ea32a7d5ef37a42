package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// spanCluster is hosts of a cluster on one wire, with vnetd on each. etcd is beside them, its
// data in memory; the hosts' leases are on the disk.
type spanCluster struct {
	b     *bench
	hosts []*nstest.Host
	bus   []*client.Client
	etcd  *nstest.Etcd
	store *etcd.Store
	admin *clientv3.Client
}

const (
	spanEndpoint = "http://10.0.0.254:2379"
	spanName     = "lab"
)

// spanUnderlay is where a host is for the others.
func spanUnderlay(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}) }

// newSpanCluster makes a cluster with so many hosts.
func newSpanCluster(b *bench, hosts int) *spanCluster {
	c := &spanCluster{b: b}
	nstest.IP(b, "link add wire type bridge mcast_snooping 0")
	b.Cleanup(func() { nstest.IP(b, "link del wire") })
	nstest.IP(b, "link set wire up")
	nstest.IP(b, "addr add 10.0.0.254/24 dev wire")
	c.etcd = nstest.StartEtcd(b, "--listen-client-urls", spanEndpoint, "--advertise-client-urls", spanEndpoint)
	var err error
	if c.store, err = etcd.Open(etcd.Config{Endpoints: []string{spanEndpoint}}); err != nil {
		b.Fatalf("%w", err)
	}
	b.Cleanup(func() { _ = c.store.Close() })
	if c.admin, err = clientv3.New(clientv3.Config{Endpoints: []string{spanEndpoint}, Logger: zap.NewNop()}); err != nil {
		b.Fatalf("%w", err)
	}
	b.Cleanup(func() { _ = c.admin.Close() })
	nstest.Eventually(b, startLimit, "etcd has a cluster", func() error {
		return cluster.Init(b.Context(), c.store, spanName, "0b7c")
	})
	for i := range hosts {
		c.hosts = append(c.hosts, c.host(i))
		c.bus = append(c.bus, nil)
		c.dial(i)
	}
	return c
}

// host makes a host, whose vnetd is in the cluster.
func (c *spanCluster) host(i int) *nstest.Host {
	h := nstest.NewHost(c.b, fmt.Sprintf("h%d", i+1))
	nstest.IP(c.b, fmt.Sprintf("link add wire%d type veth peer name eth0 netns %s", i+1, h.Name))
	c.b.Cleanup(func() { nstest.IP(c.b, fmt.Sprintf("link del wire%d", i+1)) }) // at once: that of a namespace comes later
	nstest.IP(c.b, fmt.Sprintf("link set wire%d master wire up", i+1))
	h.IP("link set eth0 up")
	h.IP(fmt.Sprintf("addr add %v/24 dev eth0", spanUnderlay(i)))
	h.IP("route add default via 10.0.0.254")
	dir, err := os.MkdirTemp(c.b.dir, "state-")
	if err != nil {
		c.b.Fatalf("making a folder: %w", err)
	}
	h.Exec("sh", "-ec", "printf '%s' \"$1\" >>/etc/vnetd/vnetd.toml", "sh", fmt.Sprintf(
		"state_dir = %q\n[cluster.%s]\nendpoints = [%q]\nhost = %q\nunderlay = %q\ninsecure = true\n", stateDir(dir), spanName, spanEndpoint, h.Name, spanUnderlay(i)))
	h.StartVnetd()
	return h
}

// dial connects to the bus of a host.
func (c *spanCluster) dial(i int) {
	was := os.Getenv("DBUS_SYSTEM_BUS_ADDRESS")
	err := os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", c.hosts[i].Bus())
	if err == nil {
		c.bus[i], err = client.Dial(c.b.Context())
		_ = os.Setenv("DBUS_SYSTEM_BUS_ADDRESS", was) // no name or value that can't be
	}
	if err != nil {
		c.b.Fatalf("host %s: %w", c.hosts[i].Name, err)
	}
	bus := c.bus[i]
	c.b.Cleanup(func() { _ = bus.Close() })
}

// write puts values, as many in a transaction as etcd takes.
func (c *spanCluster) write(all []cluster.Op) {
	for some := range slices.Chunk(all, cluster.MaxOps) {
		if _, err := c.store.Txn(c.b.Context(), cluster.Txn{Then: some}); err != nil {
			c.b.Fatalf("writing into etcd: %w", err)
		}
	}
}

// op is a value that is put below a key.
func op(k record.Key, v record.Value) cluster.Op {
	return cluster.Op{Key: k.Path(spanName), Value: record.Encode(v)}
}

// active waits until so many networks are active on a host, and returns how long that took.
func (c *spanCluster) active(i, count int) time.Duration {
	begin := time.Now()
	nstest.Eventually(c.b, 5*time.Minute, fmt.Sprintf("%d networks are active on %s", count, c.hosts[i].Name), func() error {
		networks, err := c.bus[i].Networks(c.b.Context())
		n := 0
		for _, network := range networks {
			if network.Active {
				n++
			}
		}
		if err == nil && n != count {
			err = fmt.Errorf("%d are", n)
		}
		return err
	})
	return time.Since(begin)
}

// usage is what vnetd of a host takes.
func (c *spanCluster) usage(i int) usage {
	u, err := usageAt(filepath.Join("/proc", fmt.Sprint(c.hosts[i].VnetdPID())))
	if err != nil {
		c.b.Fatalf("measuring vnetd of %s: %w", c.hosts[i].Name, err)
	}
	return u
}
