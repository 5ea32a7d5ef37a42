package client

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"
)

// Severity says how bad a condition is. A vnetd that is newer than this package
// may know more.
type Severity string

// The severities.
const (
	SeverityInfo    Severity = "info"    // nobody suffers
	SeverityWarning Severity = "warning" // something is not as it was meant
	SeverityError   Severity = "error"   // guests are cut off, or vnetd can't do its work
)

// Condition is something on the host that keeps guests from what their networks
// promise.
type Condition struct {
	// Kind is a stable word, as drop-policy: see docs/dbus.md.
	Kind     string   `json:"kind"`
	Severity Severity `json:"severity"`
	// Networks are the names of those concerned; empty: the whole host.
	Networks []string `json:"networks"`
	Message  string   `json:"message"`
	Evidence string   `json:"evidence"`
	// Remedy is a command; it may be empty.
	Remedy string    `json:"remedy"`
	Since  time.Time `json:"since"`
}

// Status is what vnetd does at one moment.
type Status struct {
	Version    string          `json:"version"`
	Networks   []NetworkStatus `json:"networks"` // in order of name
	Conditions []Condition     `json:"conditions"`
	Firewall   FirewallStatus  `json:"firewall"`
}

// NetworkStatus is a network with all that hangs on it. The fields up to
// LastError are those of Network.
type NetworkStatus struct {
	Name       string `json:"name"`
	UUID       string `json:"uuid"`
	Active     bool   `json:"active"`
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart"`
	Bridge     string `json:"bridge"`
	Mode       string `json:"mode"`
	State      State  `json:"state"`
	LastError  string `json:"last_error"`

	MAC       string         `json:"mac"`
	MTU       int            `json:"mtu"` // 0: the kernel's default
	Addresses []netip.Prefix `json:"addresses"`
	Ports     []PortStatus   `json:"ports"`
	Leases    []LeaseStatus  `json:"leases"`

	Conditions []Condition `json:"conditions"`
	Pools      []Pool      `json:"pools"`
	// DNS is nil where no names are served.
	DNS *DNSStatus `json:"dns"`
	// NotUnderstood are lines of <dnsmasq:options>.
	NotUnderstood []string `json:"not_understood"`
	// Faults are what fails of an active network, by part.
	Faults map[string]string `json:"faults"`
	// Repairs counts how often the bridge was gone and made anew.
	Repairs uint64 `json:"repairs"`
}

// PortStatus is a port of a NetworkStatus.
type PortStatus struct {
	UUID   string `json:"uuid"`
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	IfName string `json:"ifname"`
}

// LeaseStatus is a lease of a NetworkStatus.
type LeaseStatus struct {
	Address  netip.Addr `json:"address"`
	MAC      string     `json:"mac"`
	Hostname string     `json:"hostname"`
	Expiry   *time.Time `json:"expiry"` // nil: never
}

// Pool is the DHCP of one address family.
type Pool struct {
	Family string `json:"family"` // ipv4 or ipv6
	Ranges []struct {
		Start netip.Addr `json:"start"`
		End   netip.Addr `json:"end"`
	} `json:"ranges"`
	Size         uint64 `json:"size"`
	Used         uint64 `json:"used"`
	Reservations int    `json:"reservations"`
}

// DNSStatus is the name service of a network.
type DNSStatus struct {
	Domain    string `json:"domain"`
	Upstreams []struct {
		Addr    netip.AddrPort `json:"addr"`
		Domain  string         `json:"domain"` // whose names it is asked for; empty: all others
		Failing bool           `json:"failing"`
	} `json:"upstreams"`
}

// FirewallStatus is what became of the firewall since vnetd started.
type FirewallStatus struct {
	Repairs    uint64            `json:"repairs"`
	ByCause    map[string]uint64 `json:"by_cause"`
	Rules      uint64            `json:"rules"`  // put back
	Failed     uint64            `json:"failed"` // repairs
	LastRepair *time.Time        `json:"last_repair"`
	Contended  bool              `json:"contended"`
}

// Status returns what vnetd and all networks do.
func (c *Client) Status(ctx context.Context) (Status, error) {
	var s Status
	text, err := c.Describe(ctx)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, badReply(managerInterface+".Describe", err)
	}
	return s, nil
}
