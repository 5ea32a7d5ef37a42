package main

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vnetd/vnetd/pkg/bgp"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

// ownDisk leaves out where a store's directories are but for their paths: on the host's disk.
var ownDisk = cmp.Options{cmpopts.IgnoreUnexported(store.Dirs{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })}

// TestReferenceConfigIsTheDefault holds configs/vnetd.toml to its word: it shows
// every key with its default.
func TestReferenceConfigIsTheDefault(t *testing.T) {
	reference, err := loadConfig("../../configs/vnetd.toml")
	if err != nil {
		t.Fatal(err)
	}
	empty, err := parseConfig("")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(empty, reference, ownDisk); diff != "" {
		t.Errorf("the reference file differs from the defaults (-default +reference):\n%s", diff)
	}
	text, err := os.ReadFile("../../configs/vnetd.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"log_level", "networks_dir", "state_dir", "run_dir", "firewall_backend", "flow_offload", "chain_prefix", "resolv_conf", "start_on_demand", "hook", "libvirt_exact_rules", "docker_user_accept",
		"identity", "probe", "max_per_user", "max_queues_per_user", "requests_per_second", "bridge_acl", "socket", "polkit", "leases_dir", "import",
	} {
		if !strings.Contains(string(text), "\n"+key+" = ") {
			t.Errorf("the reference file does not show the key %s", key)
		}
	}
}

func TestParseConfig(t *testing.T) {
	tests := []struct {
		name, text string
		want       config
		faults     []string // each in the error
	}{
		{
			name: "all keys",
			text: "log_level='debug'\nnetworks_dir='/n'\nstate_dir='/s'\nrun_dir='/r'\nfirewall_backend='nftables'\nflow_offload=true\n" +
				"[network]\nstart_on_demand=false\nhook='/h'\n" +
				"[firewall]\nchain_prefix='VNET_'\nlibvirt_exact_rules=true\ndocker_user_accept=true\n" +
				"[dhcp]\nidentity='mac'\nprobe=true\n[dns]\nresolv_conf='/x'\nstop_rebind=true\n" +
				"[ports]\nmax_per_user=1\nmax_queues_per_user=2\nrequests_per_second=3\nbridge_acl='/b'\n" +
				"[libvirt]\nsocket='/l'\npolkit=false\nleases_dir='/d'\nimport=true\n[metrics]\nlisten='[::1]:9753'\n" +
				"[cluster.lab]\nendpoints=['https://a:2379']\nca='/ca'\ncert='/c'\nkey='/k'\nhost='h1'\nunderlay='192.0.2.1'\nport=8472\nsession_ttl='1m'\n" +
				"[cluster.home]\nendpoints=['http://127.0.0.1:2379','http://[::1]:2379']\nhost='h1'\nunderlay='2001:db8::1'\n" +
				"[bgp]\nas=4200000010\nrouter_id='192.0.2.2'\nlisten=['192.0.2.2','::']\nnext_hop=['192.0.2.3','2001:db8::3']\nrestart_time='5m'\n" +
				"[[bgp.neighbour]]\naddress='192.0.2.1'\nas=64512\npassword_file='/p'\nhold_time='9s'\nconnect_retry='3s'\nmultihop=2\n[[bgp.neighbour]]\naddress='2001:db8::1'\nas=4200000010\n",
			want: config{
				LogLevel: slog.LevelDebug, FlowOffload: true, FirewallBackend: "nftables", ChainPrefix: "VNET_", ResolvConf: "/x", StopRebind: true, Hook: "/h",
				LibvirtExactRules: true, DockerUserAccept: true, LibvirtSocket: "/l", LibvirtLeases: "/d", LibvirtImport: true, Metrics: "[::1]:9753",
				DHCPIdentity: dhcpd.ByMAC, DHCPProbe: true,
				PortLimits: network.Limits{Ports: 1, Queues: 2}, PortsPerSecond: 3, BridgeACL: "/b",
				Dirs: store.Dirs{Networks: "/n", State: "/s", Run: "/r"},
				Clusters: []clusterConfig{
					{Name: "home", Endpoints: []string{"http://127.0.0.1:2379", "http://[::1]:2379"}, Host: "h1", Underlay: netip.MustParseAddr("2001:db8::1"), Port: 4789, TTL: 15 * time.Second},
					{
						Name: "lab", Endpoints: []string{"https://a:2379"}, Files: etcd.Files{CA: "/ca", Cert: "/c", Key: "/k"}, Host: "h1",
						Underlay: netip.MustParseAddr("192.0.2.1"), Port: 8472, TTL: time.Minute,
					},
				},
				BGP: &bgp.Config{
					AS: 4200000010, RouterID: netip.MustParseAddr("192.0.2.2"), Listen: []netip.Addr{netip.MustParseAddr("192.0.2.2"), netip.IPv6Unspecified()},
					NextHops: []netip.Addr{netip.MustParseAddr("192.0.2.3"), netip.MustParseAddr("2001:db8::3")}, Restart: 5 * time.Minute,
					Neighbours: []bgp.Neighbour{
						{Address: netip.MustParseAddr("192.0.2.1"), AS: 64512, PasswordFile: "/p", Hold: 9 * time.Second, Retry: 3 * time.Second, Hops: 2},
						{Address: netip.MustParseAddr("2001:db8::1"), AS: 4200000010, Hold: 90 * time.Second, Retry: 5 * time.Second, Hops: 1},
					},
				},
			},
		},
		{
			name: "a BGP without anything", text: "[bgp]\n",
			faults: []string{"bgp.as: missing, want the number of this host's autonomous system", "bgp.neighbour: missing, want at least one [[bgp.neighbour]]", "bgp.router_id: missing, want an address of IPv4"},
		},
		{
			name: "BGP that can't be read", text: "[bgp]\nas=-1\nrouter_id='rack'\nlisten=['192.0.2.2:179']\nnext_hop=['']\nrestart_time='soon'\nroutes=true\n[[bgp.neighbour]]\naddress='router'\nas=4294967296\npassword_file='p'\nhold_time='90'\n",
			faults: []string{
				"bgp.routes: not a key that vnetd knows", "bgp.as: -1: want a number from 1 to 4294967295", `bgp.router_id: "rack": want an IP address`, `bgp.listen: "192.0.2.2:179": want an IP address`, `bgp.next_hop: ""`, `bgp.restart_time: "soon": want a time like "2m0s"`,
				`bgp.neighbour[1].address: "router": want an IP address`, "bgp.neighbour[1].as: 4294967296: want", `bgp.neighbour[1].password_file: "p" is not an absolute path`, `bgp.neighbour[1].hold_time: "90": want a time like "1m30s"`,
			},
		},
		{
			name: "BGP that can't be", text: "[bgp]\nas=64513\nrouter_id='2001:db8::2'\nlisten=['::','::']\nnext_hop=['192.0.2.2','192.0.2.3','224.0.0.1']\nrestart_time='2h'\n" +
				"[[bgp.neighbour]]\naddress='192.0.2.1'\nas=64513\nhold_time='1s'\nconnect_retry='1s'\nmultihop=256\n[[bgp.neighbour]]\naddress='192.0.2.1'\n",
			faults: []string{
				`bgp.router_id: "2001:db8::2": want an address of IPv4`, `bgp.listen: "::": want each address once`, `bgp.next_hop: "192.0.2.3": want one address of a family`, `bgp.next_hop: "224.0.0.1": want an address of this host`, "bgp.restart_time: 2h0m0s: want whole seconds from 1s to 1h8m15s",
				"bgp.neighbour[1].hold_time: 1s: want", "bgp.neighbour[1].connect_retry: 1s: want", "bgp.neighbour[1].multihop: 256: want 1 to 255 hops", "bgp.neighbour[1].multihop: 256: not for a neighbour of the same AS", `bgp.neighbour[2].address: "192.0.2.1": want each neighbour once`, "bgp.neighbour[2].as: missing",
			},
		},
		{
			name: "a cluster without anything", text: "[cluster.lab]\nreclaim_after='1h'\n",
			faults: []string{"cluster.lab.reclaim_after: not a key that vnetd knows", "cluster.lab.endpoints: there are no endpoints", "cluster.lab.host: missing", `cluster.lab.underlay: "" is no address of this host`},
		},
		{
			name: "a cluster beyond this host in the open", text: "[cluster.lab]\nendpoints=['http://192.0.2.9:2379']\nhost='h1'\nunderlay='192.0.2.1'\n",
			faults: []string{"cluster.lab.insecure: endpoints beyond this host need ca, cert and key"},
		},
		{
			name: "every fault of a cluster", text: "[cluster.'a/b']\nendpoints=['192.0.2.9']\nca='ca'\ncert='/c'\ninsecure=true\nhost='-'\nunderlay='127.0.0.1'\nport=0\nsession_ttl='1s'\n",
			faults: []string{
				`cluster.a/b.NAME: "a/b"`, `cluster.a/b.ca: "ca" is not an absolute path`, `cluster.a/b.endpoints: "192.0.2.9" is no endpoint: want https://HOST:PORT`, "cluster.a/b.insecure: not with certificates",
				`cluster.a/b.host: "-" is no name of a host`, `cluster.a/b.underlay: "127.0.0.1" is no address`, "cluster.a/b.port: 0: want", `cluster.a/b.session_ttl: "1s": want 5s to 10m0s`,
			},
		},
		{
			name: "every fault at once",
			text: "log_level='loud'\nfirewall_backend='ebtables'\nstate_dir='var'\nnetwork_dir='/n'\n[firewall]\nchain_prefix='a b'\n[ports]\nmax_per_user=-1\nbridge_acl='b'\n",
			faults: []string{
				`network_dir: not a key that vnetd knows`,
				`state_dir: "var" is not an absolute path`,
				`log_level: "loud" is not a level`,
				`firewall_backend: "ebtables" is no firewall, want auto, iptables, nftables`,
				`firewall.chain_prefix: "a b" can't begin a chain's name`,
				`ports.max_per_user: -1 is less than 0`,
				`ports.bridge_acl: "b" is not an absolute path`,
			},
		},
		{name: "metrics for everybody", text: "[metrics]\nlisten='0.0.0.0:9753'\n", faults: []string{`metrics.listen: "0.0.0.0:9753" is no place`}},
		{name: "metrics nowhere", text: "[metrics]\nlisten='unix:x'\n", faults: []string{`metrics.listen: "x" is no absolute path`}},
		{name: "not TOML", text: "log_level=", faults: []string{"line 1"}},
		{name: "wrong type", text: "log_level=3", faults: []string{"log_level"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConfig(tt.text)
			if tt.faults == nil {
				if diff := cmp.Diff(tt.want, got, ownDisk); diff != "" || err != nil {
					t.Errorf("error %v, config (-want +got):\n%s", err, diff)
				}
				return
			}
			if err == nil {
				t.Fatal("no error")
			}
			for _, fault := range tt.faults {
				if !strings.Contains(err.Error(), fault) {
					t.Errorf("error %q does not say %q", err, fault)
				}
			}
		})
	}
}

func TestLoadConfigAsked(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none.toml")
	if _, err := loadConfig(missing); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a missing file that was asked for gives %v, want an error that names it", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add("log_level='info'\n[firewall]\nchain_prefix='X_'")
	f.Add("[dns]\nresolv_conf=1")
	f.Fuzz(func(t *testing.T, text string) {
		cfg, err := parseConfig(text)
		if err == nil && !filepath.IsAbs(cfg.Dirs.Run) {
			t.Errorf("accepted run_dir %q", cfg.Dirs.Run)
		}
	})
}
