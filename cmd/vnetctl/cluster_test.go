package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client/clienttest"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/admin"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// askCluster asks the cluster of the session.
func (s *session) askCluster(ctx context.Context, req api.ClusterRequest) (json.RawMessage, error) {
	if s.cluster == nil {
		return nil, api.Errorf(api.NotFound, "no cluster is known")
	}
	result, err := s.cluster(ctx, req)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// storeWithoutUsers is a store in memory, of which everybody is the administrator.
type storeWithoutUsers struct{ *clustertest.Store }

func (storeWithoutUsers) AddHost(context.Context, string, string) error            { return nil }
func (storeWithoutUsers) LetDefine(context.Context, string, string, bool) error    { return nil }
func (storeWithoutUsers) RemoveHost(context.Context, string, string) (bool, error) { return false, nil }
func (storeWithoutUsers) EnableAuth(context.Context) error                         { return nil }

// belong has the session's host be h1 of a cluster with guests on it and on others: of three
// hosts, or of long names.
func (s *session) belong(dir string, long bool) *clustertest.Store {
	store := storeWithoutUsers{clustertest.New()}
	put := func(k record.Key, v record.Value) {
		op := cluster.Op{Key: k.Path("lab"), Value: record.Encode(v)}
		if k.Kind == record.KindAlive {
			op.Lease = store.Grant()
		}
		if _, err := store.Txn(s.t.Context(), cluster.Txn{Then: []cluster.Op{op}}); err != nil {
			s.t.Fatal(err)
		}
	}
	put(record.Key{Kind: record.KindMeta}, &record.Meta{UUID: "5f0c9a0e-6f8a-4d62-9d0a-0d8b8b9a1c11", Schema: 1, Epoch: 1})
	hosts, version := []string{"h1", "h2", "h3"}, "1.4.0"
	if long {
		hosts, version = []string{"h1", "hypervisor-2.second-floor.example.org", "hypervisor-3.third-floor.example.org"}, "1.4.0-137-g16fa943-dirty"
		put(record.Key{Kind: record.KindMeta}, &record.Meta{UUID: "5f0c9a0e-6f8a-4d62-9d0a-0d8b8b9a1c11", Schema: 1, Epoch: 2, Await: hosts})
	}
	for i, h := range hosts {
		underlay := netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})
		if long {
			underlay = netip.MustParseAddr(fmt.Sprintf("2001:db8:1234:5678:9abc:def0:1234:%d", i+1))
		}
		put(record.Key{Kind: record.KindMember, Host: h}, &record.Member{Underlay: underlay, MTU: 1500, Version: version, Epoch: 1})
		put(record.Key{Kind: record.KindBlock, Network: "apps", ID: fmt.Sprintf("010.050.000.%03d-28", 16*i)}, &record.Block{Host: h})
		if i < 2 {
			put(record.Key{Kind: record.KindAlive, Host: h}, &record.Alive{Boot: "b"})
		}
		mac := record.MAC{0x52, 0x54, 0, 0, 0, byte(i + 1)}
		put(record.Key{Kind: record.KindPort, Host: h, Network: "apps", ID: mac.String()}, &record.Port{UUID: h, Name: "app" + strconv.Itoa(i+1), Seq: 1, State: record.Here})
		put(record.Key{Kind: record.KindLease, Host: h, Network: "apps", ID: fmt.Sprintf("10.50.0.%d", 16*i+2)}, &record.Lease{MAC: mac})
	}
	mac := record.MAC{0x52, 0x54, 0, 0, 0, 2}
	put(record.Key{Kind: record.KindPort, Host: "h1", Network: "apps", ID: mac.String()}, &record.Port{UUID: "moves", Name: "app2", Seq: 1, State: record.Incoming})
	put(record.Key{Kind: record.KindNetwork, Network: "apps"}, &record.Network{XML: "<network><name>apps</name></network>", Generation: 1})
	c := admin.Cluster{Name: "lab", Endpoints: []string{"https://10.0.0.1:2379"}, Secure: true, Dir: admin.Directory(dir), Self: "h1"}
	s.cluster = func(ctx context.Context, req api.ClusterRequest) (any, error) {
		if req.Do != api.ClusterInit {
			return c.Do(ctx, store, req)
		}
		made, err := admin.Directory(req.Dir).Certificates(req.Cluster, req.Endpoints)
		if !req.Certificates {
			made.UUID, made.New = "5f0c9a0e-6f8a-4d62-9d0a-0d8b8b9a1c11", true
		}
		return made, err
	}
	return store.Store
}

// TestCluster makes a cluster, and does with it what its administrator does.
func TestCluster(t *testing.T) {
	s, dir := newSession(t), t.TempDir()
	store := s.belong(dir, false)
	export := dir + "/export.json"
	for _, line := range []string{
		"cluster init lab --endpoint https://10.0.0.1:2379 --endpoint https://[fd00::2]:2379 --certificates --dir " + dir, "cluster init lab --endpoint https://10.0.0.1:2379 --dir " + dir,
		"cluster add-host h2 --underlay 10.0.0.2", "cluster add-host h3 --underlay fd00::3 --may-define --json", "cluster add-host root --underlay 10.0.0.2", "cluster add-host h4 --underlay 127.0.0.1",
		"cluster hosts", "cluster hosts --json", "__complete cluster forget h", "cluster forget h3", "cluster forget h1 --yes", "cluster forget h3 --yes", "cluster forget h3 --yes", "cluster hosts --format {{.revision}}",
		"cluster export " + export, "cluster export " + export + " --json", "cluster export - --format {{.keys|len}}", "cluster export /nowhere/x",
		"cluster restore " + export, "cluster restore - --yes < " + export,
	} {
		s.run(line)
	}
	if info, err := os.Stat(export); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	store.Wipe()
	for _, line := range []string{"cluster hosts", "cluster restore " + export + " --yes", "cluster hosts"} {
		s.run(line)
	}
	changed := cluster.Op{Key: "/vnetd/1/lab/n/apps", Value: record.Encode(&record.Network{XML: "<network/>", Generation: 2})}
	if _, err := store.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{changed}}); err != nil {
		t.Fatal(err)
	}
	s.run("cluster restore " + export + " --yes")
	s.asks = true
	for _, line := range []string{"cluster forget h2", "cluster restore " + export} {
		for _, answer := range []string{"", "y\n"} {
			code, stdout, stderr := s.execute(t.Context(), answer, strings.Fields(line))
			s.note(line+", answered "+strconv.Quote(answer), code, stdout, stderr)
		}
	}
	s.inDirectory(dir)
	s.check()
}

// joined has the session's vnetd know a cluster: an hour ago it reached the store, or lost it.
func (s *session) joined(lost bool) {
	since, seen := now.Add(-time.Hour), now.Add(-4*time.Minute)
	c := api.Cluster{Name: "lab", Host: "h1", Connected: !lost, Since: &since, Revision: 18}
	if lost {
		c.Lost, c.Backlog = "rolled back", 17
		c.Reason = "the store went back in time: revision 18, was 4711\nhttps://10.0.0.1:2379: connection refused"
	}
	for i, state := range []string{api.HostSelf, api.HostAlive, api.HostSilent} {
		h := api.ClusterHost{Name: "h" + strconv.Itoa(i+1), State: state, Underlay: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), Version: "1.4.0"}
		if state == api.HostSilent {
			h.Seen = &seen
		}
		if lost && state != api.HostSelf {
			h.State, h.Seen = api.HostUnknown, &seen
		}
		c.Hosts = append(c.Hosts, h)
	}
	clienttest.SetClusters(s.server, c)
}

// TestClusterStatus asks vnetd, and the store where there is none of the cluster.
func TestClusterStatus(t *testing.T) {
	s := newSession(t)
	s.joined(false)
	s.run("cluster status")
	s.belong(t.TempDir(), false)
	for _, line := range []string{"cluster hosts", "cluster status --json", "cluster status --cluster lab --format {{.host}}"} {
		s.run(line)
	}
	s.joined(true)
	for _, line := range []string{"cluster status", "cluster restore --cluster none", "cluster restore", "cluster restore", "cluster restore --cluster lab --json"} {
		s.run(line)
	}
	clienttest.SetClusters(s.server)
	s.run("cluster status")
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	s.run("cluster status")
	s.cluster = nil
	s.run("cluster status")
	s.check()
}

// TestSpan has a network be one on the hosts of a cluster, and none any more.
func TestSpan(t *testing.T) {
	s := newSession(t)
	s.run("span default")
	s.joined(false)
	for _, line := range []string{
		"span default --vni x --block 3 --hosts h1,-h2", "span default --hosts h1 --hosts h2 --vni 7 --block 16", "cat default --inactive", "span default", "unspan default", "unspan default",
		"span lab --cluster lab --json", "__complete span --hosts h", "span", "unspan none", "span default lab",
	} {
		s.run(line)
	}
	s.belong(t.TempDir(), false)
	s.run("__complete span default --hosts h")
	clienttest.SetClusters(s.server, api.Cluster{Name: "a"}, api.Cluster{Name: "b"})
	s.run("span lab")
	s.check()
}

// inDirectory names a directory that is another one each time.
func (s *session) inDirectory(dir string) {
	text := strings.ReplaceAll(s.transcript.String(), dir, "DIR")
	s.transcript.Reset()
	s.transcript.WriteString(text)
}

// TestWhere finds guests of this host, of others, of both, and of none.
func TestWhere(t *testing.T) {
	s := newSession(t)
	s.quietly("port", "create", "default", "--name", "web1", "--address", "192.0.2.100", "--mac", "00:00:5e:00:53:0a", "--lifetime", "persistent")
	s.quietly("port", "create", "default", "--name", "app2", "--mac", "52:54:00:00:00:02", "--lifetime", "persistent")
	lines := []string{"where web1", "where 192.0.2.100 --json", "where 00-00-5E-00-53-0A --format {{.host}}", "where app2", "where 10.50.0.34", "where 52:54:00:00:00:01", "where nobody"}
	s.belong(t.TempDir(), false)
	for _, line := range lines {
		s.run(line)
	}
	s.cluster = nil
	s.transcript.WriteString("# without a cluster\n")
	for _, line := range []string{"where app2 --json", "where nobody", "where app2 --json --cluster lab", "where nobody --cluster lab"} {
		s.run(line)
	}
	s.belong(t.TempDir(), false)
	if err := s.server.Leave(); err != nil {
		t.Fatal(err)
	}
	s.transcript.WriteString("# without vnetd\n")
	for _, line := range []string{"where app3", "where nobody"} {
		s.run(line)
	}
	s.cluster = nil
	s.run("where app3")
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	s.inDirectory(name)
	s.check()
}

// TestClusterTables prints tables of clusters on terminals of 80 and 140 characters.
func TestClusterTables(t *testing.T) {
	for _, long := range []bool{false, true} {
		s := newSession(t)
		s.belong(t.TempDir(), long)
		t.Run(map[bool]string{false: "good", true: "bad"}[long], func(t *testing.T) {
			s.t = t
			for _, s.width = range []int{80, 140} {
				fmt.Fprintf(&s.transcript, "%s\n", strings.Repeat("-", s.width))
				for _, line := range []string{"cluster hosts", "cluster status", "where app2"} {
					s.run(line)
					s.fits(line)
				}
			}
			s.colour = true
			s.run("cluster hosts")
			if !utf8.ValidString(s.transcript.String()) {
				t.Error("not UTF-8")
			}
			s.check()
		})
	}
}

// TestBGP shows how the host stands to routers, and what they are told of a network.
func TestBGP(t *testing.T) {
	s := newSession(t)
	b := &api.BGP{AS: 64513, RouterID: netip.MustParseAddr("192.0.2.2"), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}, Neighbours: []api.BGPNeighbour{
		{Address: netip.MustParseAddr("192.0.2.1"), AS: 64512, Up: true, Since: now.Add(-2 * time.Minute)},
		{Address: netip.MustParseAddr("2001:db8::1"), AS: 64512, Since: now.Add(-time.Hour), Reason: "connect: connection refused\x1b[31m", Flaps: 3},
	}}
	clienttest.SetBGP(s.server, b)
	s.run("status")
	s.run("status --format {{.bgp.neighbours}}")
	s.server.SetDetail("default", "announced", []string{})
	s.run("status default")
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprintf("10.1.0.%d/32", i))
	}
	s.server.SetDetail("default", "announced", all)
	s.run("status default")
	s.check()
}
