package api

import (
	"net/netip"
	"time"
)

// The states of a host of a cluster.
const (
	HostSelf   = "self"   // this host
	HostAlive  = "alive"  // its vnetd talks to the store
	HostSilent = "silent" // it does not: its guests may run all the same

	HostUnknown = "unknown" // another host, while the store is away from this one
)

// Cluster is how this host stands to the others of a cluster.
type Cluster struct {
	Name      string        `json:"name"`
	Host      string        `json:"host"`      // this one
	Connected bool          `json:"connected"` // the store is reached, and has what this host says
	Since     *time.Time    `json:"since"`     // since when that is so; null: since vnetd started
	Reason    string        `json:"reason"`    // why it is not connected
	Lost      string        `json:"lost"`      // what the store lost: emptied, other, rolled back or forgotten; "" for nothing
	Revision  int64         `json:"revision"`  // of the store, up to which it was seen
	Backlog   int           `json:"backlog"`   // leases whose newest state the store has not
	Hosts     []ClusterHost `json:"hosts"`     // all, this one among them, in order of name
}

// ClusterHost is a host of a cluster.
type ClusterHost struct {
	Name     string     `json:"name"`
	State    string     `json:"state"` // one of those above
	Underlay netip.Addr `json:"underlay"`
	Version  string     `json:"version"` // of its vnetd
	Seen     *time.Time `json:"seen"`    // when this vnetd saw it alive last; null: not since it started
}

// Share is how a network is shared with the hosts of its cluster.
type Share struct {
	Cluster   string     `json:"cluster"`
	Host      string     `json:"host"` // this one
	Connected bool       `json:"connected"`
	Since     *time.Time `json:"since"`   // since when that is so; null: since vnetd started
	Silent    []string   `json:"silent"`  // hosts whose vnetd does not talk to the store, in order
	Backlog   int        `json:"backlog"` // leases that the store has not, of all networks
	Blocks    Blocks     `json:"blocks"`
	Elsewhere int        `json:"elsewhere"` // cards of guests on other hosts
}

// Blocks are the blocks of addresses from which the hosts of a cluster give some.
type Blocks struct {
	Mine      int    `json:"mine"`
	Others    int    `json:"others"`
	Free      uint64 `json:"free"`      // addresses of this host's
	Addresses uint64 `json:"addresses"` // of this host's, in all
}
