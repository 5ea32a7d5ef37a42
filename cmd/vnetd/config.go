package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/vnetd/vnetd/pkg/bgp"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
	"github.com/vnetd/vnetd/pkg/cluster/record"
	"github.com/vnetd/vnetd/pkg/dhcpd"
	"github.com/vnetd/vnetd/pkg/netdef/span"
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

	FirewallBackend   string // autoBackend, or the name of one
	FlowOffload       bool   // for networks that do not say
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

	Clusters []clusterConfig // in order of name

	BGP *bgp.Config // nil: nothing is announced
}

// file is the configuration as the admin writes it; configs/vnetd.toml explains
// each key.
type file struct {
	LogLevel    string       `toml:"log_level"`
	NetworksDir string       `toml:"networks_dir"`
	StateDir    string       `toml:"state_dir"`
	RunDir      string       `toml:"run_dir"`
	Backend     string       `toml:"firewall_backend"`
	FlowOffload bool         `toml:"flow_offload"`
	Network     fileNetwork  `toml:"network"`
	Firewall    fileFirewall `toml:"firewall"`
	DHCP        fileDHCP     `toml:"dhcp"`
	Ports       filePorts    `toml:"ports"`
	DNS         fileDNS      `toml:"dns"`
	Libvirt     fileLibvirt  `toml:"libvirt"`
	Metrics     fileMetrics  `toml:"metrics"`

	Cluster map[string]fileCluster `toml:"cluster"`
	BGP     *fileBGP               `toml:"bgp"`
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
		Backend:     iptablesBackend,
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

		FirewallBackend:   f.Backend,
		FlowOffload:       f.FlowOffload,
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
	clusters, wrong := parseClusters(f.Cluster)
	cfg.Clusters, faults = clusters, append(faults, wrong...)
	cfg.BGP, wrong = parseBGP(f.BGP)
	faults = append(faults, wrong...)
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
	if words := []string{autoBackend, iptablesBackend, nftablesBackend}; !slices.Contains(words, f.Backend) {
		faults = append(faults, fmt.Errorf("firewall_backend: %q is no firewall, want %s", f.Backend, strings.Join(words, ", ")))
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

// clusterConfig is a [cluster.NAME] with its defaults.
type clusterConfig struct {
	Name      string
	Endpoints []string
	Files     etcd.Files // empty: without certificates
	Host      string     // empty: the common name of the certificate
	Underlay  netip.Addr
	Port      uint16
	TTL       time.Duration // of the session
}

// fileCluster is a [cluster.NAME] as the admin writes it.
type fileCluster struct {
	Endpoints  []string `toml:"endpoints"`
	CA         string   `toml:"ca"`
	Cert       string   `toml:"cert"`
	Key        string   `toml:"key"`
	Host       string   `toml:"host"`
	Underlay   string   `toml:"underlay"`
	Port       *int     `toml:"port"`
	SessionTTL *string  `toml:"session_ttl"`
	Insecure   bool     `toml:"insecure"`
}

// The session of a host with its cluster: after the shortest time a host that is only slow is
// not taken for silent, and after the longest one that is gone is.
const (
	usualTTL = 15 * time.Second
	minTTL   = 5 * time.Second
	maxTTL   = 10 * time.Minute
)

// parseClusters reads all [cluster.NAME], and says what is wrong with them.
func parseClusters(all map[string]fileCluster) (clusters []clusterConfig, faults []error) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		f := all[name]
		c, wrong := f.parse(name)
		clusters = append(clusters, c)
		for _, err := range wrong {
			faults = append(faults, fmt.Errorf("cluster.%s.%w", name, err))
		}
	}
	return clusters, faults
}

// parse reads a [cluster.NAME]. Each fault begins with its key.
func (f *fileCluster) parse(name string) (c clusterConfig, faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	c = clusterConfig{
		Name: name, Endpoints: f.Endpoints, Files: etcd.Files{CA: f.CA, Cert: f.Cert, Key: f.Key}, Host: f.Host, TTL: usualTTL,
	}
	if err := record.CheckHost(name); err != nil {
		fault("NAME: %q: want up to 64 letters, digits, '.', '-' and '_'", name)
	}
	faults = append(append(faults, f.checkFiles()...), f.checkStore()...)
	if err := record.CheckHost(f.Host); f.Host != "" && err != nil {
		fault("host: %w", err)
	}
	a, err := netip.ParseAddr(f.Underlay)
	if c.Underlay = a; err != nil || a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast() {
		fault("underlay: %q is no address of this host that the others reach", f.Underlay)
	}
	if c.Port, err = f.port(); err != nil {
		faults = append(faults, err)
	}
	if f.SessionTTL != nil {
		c.TTL, err = time.ParseDuration(*f.SessionTTL)
		if err != nil || c.TTL < minTTL || c.TTL > maxTTL {
			fault("session_ttl: %q: want %v to %v", *f.SessionTTL, minTTL, maxTTL)
		}
	}
	return c, faults
}

// port is that of tunnels.
func (f *fileCluster) port() (uint16, error) {
	switch {
	case f.Port == nil:
		return span.DefaultPort, nil
	case *f.Port < 1 || *f.Port > 65535:
		return 0, fmt.Errorf("port: %d: want a port of UDP from 1 to 65535", *f.Port)
	}
	return uint16(*f.Port), nil
}

// checkFiles checks where certificates are.
func (f *fileCluster) checkFiles() (faults []error) {
	for _, file := range []struct{ key, path string }{{"ca", f.CA}, {"cert", f.Cert}, {"key", f.Key}} {
		if file.path != "" && !filepath.IsAbs(file.path) {
			faults = append(faults, fmt.Errorf("%s: %q is not an absolute path", file.key, file.path))
		}
	}
	return faults
}

// checkStore checks how etcd is reached: by certificates, unless it is on this host or the
// admin wants it so.
func (f *fileCluster) checkStore() (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	secure := f.CA != "" || f.Cert != "" || f.Key != ""
	if err := etcd.CheckEndpoints(f.Endpoints, secure); err != nil {
		fault("endpoints: %w", err)
	}
	switch {
	case secure && f.Insecure:
		fault("insecure: not with certificates: leave either out")
	case secure && (f.CA == "" || f.Cert == "" || f.Key == ""):
		fault("ca: want ca, cert and key, or none of them")
	case !secure && f.Host == "":
		fault("host: missing: without a certificate nothing else says this host's name")
	}
	if !secure && !f.Insecure && slices.ContainsFunc(f.Endpoints, func(e string) bool { return !onThisHost(e) }) {
		fault("insecure: endpoints beyond this host need ca, cert and key; who reaches them without may give every guest's frames to anybody: insecure = true says that nobody else does")
	}
	return faults
}

// onThisHost reports whether an endpoint is reached by the loopback interface.
func onThisHost(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil {
		return true // a fault of its own
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback() || u.Hostname() == "localhost"
}
