package api

import (
	"encoding/json"
	"net/netip"
	"time"
)

// ClusterVerb is what can be asked of vnet-cluster, the program by which vnetctl reaches
// the store of a cluster.
type ClusterVerb string

// The verbs, each with what it answers.
const (
	ClusterInit    ClusterVerb = "init"     // ClusterMade
	ClusterAddHost ClusterVerb = "add-host" // ClusterHostKit
	ClusterHosts   ClusterVerb = "hosts"    // ClusterHostList
	ClusterForget  ClusterVerb = "forget"   // ClusterForgotten
	ClusterExport  ClusterVerb = "export"   // ClusterKeys
	ClusterRestore ClusterVerb = "restore"  // ClusterRestored
	ClusterWhere   ClusterVerb = "where"    // ClusterFound
)

// ClusterRequest asks vnet-cluster for something. It is read as JSON from standard input.
type ClusterRequest struct {
	Do      ClusterVerb `json:"do"`
	Cluster string      `json:"cluster"` // its name; "" for the only one
	Config  string      `json:"config"`  // file with [cluster.NAME]; "" for vnetd's, or what init wrote into Dir
	Dir     string      `json:"dir"`     // of the authority and what it signed

	Endpoints    []string `json:"endpoints,omitempty"`    // of init
	Certificates bool     `json:"certificates,omitempty"` // of init: make these alone
	Insecure     bool     `json:"insecure,omitempty"`     // of init: http:// and no certificates

	Host      string     `json:"host,omitempty"`       // of add-host and forget
	Underlay  netip.Addr `json:"underlay,omitzero"`    // of add-host
	MayDefine bool       `json:"may_define,omitempty"` // of add-host: definitions of networks, for all hosts
	Force     bool       `json:"force,omitempty"`      // of forget: one that is alive as well

	Keys *ClusterKeys `json:"keys,omitempty"` // of restore
	What string       `json:"what,omitempty"` // of where: a MAC address, a name or an address
}

// ClusterAnswer is what vnet-cluster writes, as JSON to standard output.
type ClusterAnswer struct {
	Kind   Kind            `json:"kind,omitempty"`  // of an error
	Error  string          `json:"error,omitempty"` // "" for none
	Result json.RawMessage `json:"result,omitempty"`
}

// ClusterMade is what init did.
type ClusterMade struct {
	Cluster string       `json:"cluster"`
	Dir     string       `json:"dir"`
	Files   []string     `json:"files"` // that it made: none if they were there
	Servers []EtcdServer `json:"servers"`
	UUID    string       `json:"uuid"` // "" if the store was not asked
	New     bool         `json:"new"`  // the cluster was not there before
}

// EtcdServer is a server of etcd, and where its files are.
type EtcdServer struct {
	Endpoint string `json:"endpoint"`
	Host     string `json:"host"` // at which it is reached
	Dir      string `json:"dir"`
}

// ClusterHostKit is what a host needs to belong to a cluster.
type ClusterHostKit struct {
	Cluster string   `json:"cluster"`
	Host    string   `json:"host"`
	Dir     string   `json:"dir"` // of its files; "" without certificates
	Files   []string `json:"files"`
	Config  string   `json:"config"` // the section of its vnetd.toml
}

// ClusterHostList are the hosts of a cluster as its store has them.
type ClusterHostList struct {
	Cluster  string          `json:"cluster"`
	UUID     string          `json:"uuid"`
	Revision int64           `json:"revision"`
	Waiting  []string        `json:"waiting"` // hosts that have not written their own again after the store lost it
	Hosts    []ClusterMember `json:"hosts"`
}

// ClusterMember is a host as the store has it.
type ClusterMember struct {
	Name     string     `json:"name"`
	State    string     `json:"state"` // "alive", "silent", or "gone": it left keys and is no member
	Seen     *time.Time `json:"seen"`  // when the vnetd of this host saw it alive last; null: it does not know
	Underlay netip.Addr `json:"underlay"`
	MTU      int        `json:"mtu"`
	Version  string     `json:"version"`
	Blocks   int        `json:"blocks"` // of addresses
	Guests   int        `json:"guests"` // cards that send from it
	Leases   int        `json:"leases"`
}

// ClusterForgotten says what became of a host.
type ClusterForgotten struct {
	Host string `json:"host"`
	Keys int    `json:"keys"` // that went
}

// ClusterKeys are all keys of a cluster at a revision of its store.
type ClusterKeys struct {
	Cluster  string       `json:"cluster"`
	UUID     string       `json:"uuid"`
	Epoch    int          `json:"epoch"`
	Revision int64        `json:"revision"`
	Keys     []ClusterKey `json:"keys"`
}

// ClusterKey is one of them.
type ClusterKey struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value,omitempty"` // JSON
	Bytes []byte          `json:"bytes,omitempty"` // in the place of a value that is none
}

// ClusterRestored says what became of keys.
type ClusterRestored struct {
	Epoch     int               `json:"epoch"`
	Waiting   []string          `json:"waiting"` // hosts that write their own themselves
	Written   []string          `json:"written"`
	Conflicts []ClusterConflict `json:"conflicts"`
}

// ClusterConflict is a key that the store has with another value, which stays.
type ClusterConflict struct {
	Key   string `json:"key"`
	Has   string `json:"has"`
	Wants string `json:"wants"`
}

// ClusterFound are the cards that were looked for.
type ClusterFound struct {
	Self   string         `json:"self"` // this host's name in the cluster; "" if it does not belong to it
	Guests []ClusterGuest `json:"guests"`
}

// ClusterGuest is a guest's card, and the host that it sends from.
type ClusterGuest struct {
	Host      string       `json:"host"`
	Network   string       `json:"network"`
	MAC       string       `json:"mac"`
	Name      string       `json:"name"`
	Addresses []netip.Addr `json:"addresses"`
	State     string       `json:"state"` // "here", "incoming" (on its way to the host) or "" (there is a lease, but no port)
	Port      string       `json:"port"`  // its device, if the host is this one
}
