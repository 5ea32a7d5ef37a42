package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
)

// Plan is what a start of a network would make, and what would be in its way.
type Plan struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
	// Action is what the document would do: create a network, redefine an inactive
	// one, or change an active one.
	Action string `json:"action"`
	// Conflicts are what is in the way; none: it would start.
	Conflicts []string `json:"conflicts"`

	Links []struct {
		Name string `json:"name"`
		// Made is false for a bridge of the host, which stays as it is.
		Made         bool   `json:"made"`
		MAC          string `json:"mac"` // empty: chosen when the network is defined
		MTU          int    `json:"mtu"` // 0: the kernel's default
		STP          bool   `json:"stp"`
		ForwardDelay int    `json:"forward_delay"` // seconds
		Uplink       string `json:"uplink"`
		Zone         string `json:"zone"`
	} `json:"links"`
	Addresses []struct {
		Link    string       `json:"link"`
		Address netip.Prefix `json:"address"`
	} `json:"addresses"`
	Routes []struct {
		Destination netip.Prefix `json:"destination"`
		Gateway     netip.Addr   `json:"gateway"`
		Link        string       `json:"link"`
		Metric      int          `json:"metric"`
	} `json:"routes"`
	Sysctls []struct {
		Key   string `json:"key"` // as in sysctl.d(5)
		Value string `json:"value"`
	} `json:"sysctls"`
	Rules    []PlannedRule `json:"rules"`
	Pools    []Pool        `json:"pools"`
	Services []struct {
		Name  string       `json:"name"`
		Addrs []netip.Addr `json:"addrs"`
	} `json:"services"`
	// NotUnderstood are lines of <dnsmasq:options>.
	NotUnderstood []string `json:"not_understood"`
}

// PlannedRule is a firewall rule.
type PlannedRule struct {
	Family string `json:"family"` // ipv4 or ipv6
	Table  string `json:"table"`
	Chain  string `json:"chain"`
	Args   string `json:"args"` // as iptables-save prints them
}

// String is the rule as a command of iptables or ip6tables.
func (r PlannedRule) String() string {
	program := "iptables"
	if r.Family == "ipv6" {
		program = "ip6tables"
	}
	return fmt.Sprintf("%s -t %s -A %s %s", program, r.Table, r.Chain, r.Args)
}

// Plan tells what a network of that document would be. It touches nothing. A fault
// in the document is ErrInvalid; what is in the network's way is in the plan.
func (c *Client) Plan(ctx context.Context, xml string) (Plan, error) {
	var p Plan
	var text string
	if err := c.call(ctx, rootPath, managerInterface+".Plan", xml).into(&text); err != nil {
		return p, err
	}
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return p, badReply(managerInterface+".Plan", err)
	}
	return p, nil
}
