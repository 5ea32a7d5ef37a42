package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/network"
	"github.com/vnetd/vnetd/pkg/store"
)

// defaultConfig is read when no --config is given; it may be absent.
const defaultConfig = "/etc/vnetd/vnetd.toml"

// config is the validated configuration.
type config struct {
	LogLevel   slog.Level
	Dirs       store.Dirs
	ResolvConf string
	StopRebind bool

	DHCPIdentity dhcpd.Identity
	DHCPProbe    bool

	ChainPrefix       string
	LibvirtExactRules bool
	DockerUserAccept  bool

	StartOnDemand bool
	Hook          string // empty: none

	PortLimits     network.Limits
	PortsPerSecond int
	BridgeACL      string // empty: none

	LibvirtSocket string // empty: none
	LibvirtPolkit bool
	LibvirtLeases string // a directory; empty: none
	LibvirtImport bool   // its networks are taken over once

	Metrics string // where to listen for scrapes; empty: nowhere
}

// file is the configuration as the admin writes it; configs/vnetd.toml explains
// each key.
type file struct {
	LogLevel    string       `toml:"log_level"`
	NetworksDir string       `toml:"networks_dir"`
	StateDir    string       `toml:"state_dir"`
	RunDir      string       `toml:"run_dir"`
	Network     fileNetwork  `toml:"network"`
	Firewall    fileFirewall `toml:"firewall"`
	DHCP        fileDHCP     `toml:"dhcp"`
	Ports       filePorts    `toml:"ports"`
	DNS         fileDNS      `toml:"dns"`
	Libvirt     fileLibvirt  `toml:"libvirt"`
	Metrics     fileMetrics  `toml:"metrics"`
}

type fileNetwork struct {
	StartOnDemand bool   `toml:"start_on_demand"`
	Hook          string `toml:"hook"`
}

type filePorts struct {
	MaxPerUser       int    `toml:"max_per_user"`
	MaxQueuesPerUser int    `toml:"max_queues_per_user"`
	PerSecond        int    `toml:"requests_per_second"`
	BridgeACL        string `toml:"bridge_acl"`
}

type fileFirewall struct {
	ChainPrefix       string `toml:"chain_prefix"`
	LibvirtExactRules bool   `toml:"libvirt_exact_rules"`
	DockerUserAccept  bool   `toml:"docker_user_accept"`
}

type fileDHCP struct {
	Identity string `toml:"identity"`
	Probe    bool   `toml:"probe"`
}

type fileMetrics struct {
	Listen string `toml:"listen"`
}

type fileDNS struct {
	ResolvConf string `toml:"resolv_conf"`
	StopRebind bool   `toml:"stop_rebind"`
}

type fileLibvirt struct {
	Socket string `toml:"socket"`
	Polkit bool   `toml:"polkit"`
	Leases string `toml:"leases_dir"`
	Import bool   `toml:"import"`
}

// defaults is what an empty file means.
func defaults() file {
	return file{
		LogLevel:    "info",
		NetworksDir: "/etc/vnetd/networks",
		StateDir:    "/var/lib/vnetd",
		RunDir:      "/run/vnetd",
		Network:     fileNetwork{StartOnDemand: true},
		Firewall:    fileFirewall{ChainPrefix: "LIBVIRT_"},
		DHCP:        fileDHCP{Identity: string(dhcpd.ByBoth)},
		Ports:       filePorts{MaxPerUser: 256, MaxQueuesPerUser: 1024, PerSecond: 50, BridgeACL: "/etc/qemu/bridge.conf"},
		DNS:         fileDNS{ResolvConf: "/etc/resolv.conf"},
		Libvirt:     fileLibvirt{Polkit: true},
	}
}

// loadConfig reads the file at path. An empty path stands for the default one,
// which may be absent; a file that was asked for may not.
func loadConfig(path string) (config, error) {
	optional := path == ""
	if optional {
		path = defaultConfig
	}
	data, err := os.ReadFile(path)
	if err != nil && (!optional || !errors.Is(err, fs.ErrNotExist)) {
		return config{}, fmt.Errorf("reading configuration: %w", err)
	}
	cfg, err := parseConfig(string(data))
	if err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

// parseConfig reads and validates the text of a configuration; every fault is
// reported, each with its key.
func parseConfig(text string) (config, error) {
	f := defaults()
	meta, err := toml.Decode(text, &f)
	if err != nil {
		return config{}, err
	}
	var faults []error
	for _, key := range meta.Undecoded() {
		faults = append(faults, fmt.Errorf("%s: not a key that vnetd knows", key))
	}
	cfg := config{
		Dirs:       store.Dirs{Networks: f.NetworksDir, State: f.StateDir, Run: f.RunDir},
		ResolvConf: f.DNS.ResolvConf,
		StopRebind: f.DNS.StopRebind,

		DHCPIdentity: dhcpd.Identity(f.DHCP.Identity),
		DHCPProbe:    f.DHCP.Probe,

		ChainPrefix:       f.Firewall.ChainPrefix,
		LibvirtExactRules: f.Firewall.LibvirtExactRules,
		DockerUserAccept:  f.Firewall.DockerUserAccept,

		StartOnDemand: f.Network.StartOnDemand,
		Hook:          f.Network.Hook,

		PortLimits:     network.Limits{Ports: f.Ports.MaxPerUser, Queues: f.Ports.MaxQueuesPerUser},
		PortsPerSecond: f.Ports.PerSecond,
		BridgeACL:      f.Ports.BridgeACL,

		LibvirtSocket: f.Libvirt.Socket,
		LibvirtPolkit: f.Libvirt.Polkit,
		LibvirtLeases: f.Libvirt.Leases,
		LibvirtImport: f.Libvirt.Import,

		Metrics: f.Metrics.Listen,
	}
	faults = append(faults, f.validate()...)
	if err := cfg.LogLevel.UnmarshalText([]byte(f.LogLevel)); err != nil {
		faults = append(faults, fmt.Errorf("log_level: %q is not a level, want debug, info, warn or error", f.LogLevel))
	}
	return cfg, errors.Join(faults...)
}

// chainPrefix is what leaves room for the longest chain's name within the 28
// characters that iptables allows (XT_EXTENSION_MAXNAMELEN).
var chainPrefix = regexp.MustCompile(`^[A-Za-z0-9_-]{1,24}$`)

// validate finds the faults that are not of type.
func (f *file) validate() []error {
	var faults []error
	for _, limit := range []struct {
		key   string
		value int
	}{
		{"ports.max_per_user", f.Ports.MaxPerUser},
		{"ports.max_queues_per_user", f.Ports.MaxQueuesPerUser},
		{"ports.requests_per_second", f.Ports.PerSecond},
	} {
		if limit.value < 0 {
			faults = append(faults, fmt.Errorf("%s: %d is less than 0, which means no limit", limit.key, limit.value))
		}
	}
	for _, path := range []struct {
		key, value string
		optional   bool
	}{
		{"networks_dir", f.NetworksDir, false},
		{"state_dir", f.StateDir, false},
		{"run_dir", f.RunDir, false},
		{"dns.resolv_conf", f.DNS.ResolvConf, false},
		{"network.hook", f.Network.Hook, true},
		{"ports.bridge_acl", f.Ports.BridgeACL, true},
		{"libvirt.socket", f.Libvirt.Socket, true},
		{"libvirt.leases_dir", f.Libvirt.Leases, true},
	} {
		if !filepath.IsAbs(path.value) && (path.value != "" || !path.optional) {
			faults = append(faults, fmt.Errorf("%s: %q is not an absolute path", path.key, path.value))
		}
	}
	if words := []string{string(dhcpd.ByBoth), string(dhcpd.ByClientID), string(dhcpd.ByMAC)}; !slices.Contains(words, f.DHCP.Identity) {
		faults = append(faults, fmt.Errorf("dhcp.identity: %q does not tell clients apart, want %s", f.DHCP.Identity, strings.Join(words, ", ")))
	}
	if err := checkListen(f.Metrics.Listen); err != nil {
		faults = append(faults, err)
	}
	prefix := f.Firewall.ChainPrefix
	if !chainPrefix.MatchString(prefix) || strings.HasPrefix(prefix, "-") {
		faults = append(faults, fmt.Errorf("firewall.chain_prefix: %q can't begin a chain's name, want up to 24 letters, digits, - and _", prefix))
	}
	return faults
}
