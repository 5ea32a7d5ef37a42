package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

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
	if diff := cmp.Diff(empty, reference); diff != "" {
		t.Errorf("the reference file differs from the defaults (-default +reference):\n%s", diff)
	}
	text, err := os.ReadFile("../../configs/vnetd.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"log_level", "networks_dir", "state_dir", "run_dir", "chain_prefix", "resolv_conf", "start_on_demand", "hook", "libvirt_exact_rules", "docker_user_accept",
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
			text: "log_level='debug'\nnetworks_dir='/n'\nstate_dir='/s'\nrun_dir='/r'\n" +
				"[network]\nstart_on_demand=false\nhook='/h'\n" +
				"[firewall]\nchain_prefix='VNET_'\nlibvirt_exact_rules=true\ndocker_user_accept=true\n" +
				"[dhcp]\nidentity='mac'\nprobe=true\n[dns]\nresolv_conf='/x'\nstop_rebind=true\n" +
				"[ports]\nmax_per_user=1\nmax_queues_per_user=2\nrequests_per_second=3\nbridge_acl='/b'\n" +
				"[libvirt]\nsocket='/l'\npolkit=false\nleases_dir='/d'\nimport=true\n[metrics]\nlisten='[::1]:9753'\n",
			want: config{
				LogLevel: slog.LevelDebug, ChainPrefix: "VNET_", ResolvConf: "/x", StopRebind: true, Hook: "/h",
				LibvirtExactRules: true, DockerUserAccept: true, LibvirtSocket: "/l", LibvirtLeases: "/d", LibvirtImport: true, Metrics: "[::1]:9753",
				DHCPIdentity: dhcpd.ByMAC, DHCPProbe: true,
				PortLimits: network.Limits{Ports: 1, Queues: 2}, PortsPerSecond: 3, BridgeACL: "/b",
				Dirs: store.Dirs{Networks: "/n", State: "/s", Run: "/r"},
			},
		},
		{
			name: "every fault at once",
			text: "log_level='loud'\nstate_dir='var'\nnetwork_dir='/n'\n[firewall]\nchain_prefix='a b'\n[ports]\nmax_per_user=-1\nbridge_acl='b'\n",
			faults: []string{
				`network_dir: not a key that vnetd knows`,
				`state_dir: "var" is not an absolute path`,
				`log_level: "loud" is not a level`,
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
				if diff := cmp.Diff(tt.want, got); diff != "" || err != nil {
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
