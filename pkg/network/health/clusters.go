package health

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
)

// Cluster is a cluster that this host is in.
type Cluster struct {
	Name     string
	Networks []string // active ones, in order
	Silent   []string // hosts whose vnetd does not talk to the store, in order
	Faults   []ClusterFault
}

// ClusterFault is what is not as it should be in a cluster.
type ClusterFault struct {
	Kind    string // as cluster.Fault has it
	Network string // that it is about; empty for no single one
	Subject string
	Text    string
}

// clusterKinds are the conditions of faults by their kind, with their messages, which take the
// cluster's name.
var clusterKinds = map[string]struct {
	kind, message, remedy string
	severity              api.Severity
}{
	"away":        {"cluster-away", "cluster %q is away: guests go on, renew and get addresses of this host's blocks; nobody learns what is new", "vnetctl cluster status", api.SeverityWarning},
	"lost":        {"cluster-lost", "cluster %q has lost data: this host goes on with what it knew, and believes nothing else", "vnetctl cluster status", api.SeverityError},
	"flapping":    {"cluster-flapping", "a card in cluster %q moves from host to host all the time", "", api.SeverityError},
	"duplicate":   {"cluster-duplicate", "two guests in cluster %q have one MAC address: this host's gets no frames from other hosts", "", api.SeverityError},
	"split":       {"cluster-split", "a guest in cluster %q sends from another host, and has its port on this one still", "", api.SeverityWarning},
	"name":        {"cluster-name", "a guest in cluster %q goes without its name, which another one has", "", api.SeverityWarning},
	"reservation": {"cluster-reservation", "a <host> of a network in cluster %q waits for a host that is silent: until then its guest gets another address", "vnetctl cluster hosts", api.SeverityWarning},
	"definition":  {"cluster-definition", "a network of cluster %q is not on this host what the others have", "", api.SeverityError},
	"unreadable":  {"cluster-unreadable", "cluster %q has something that this vnetd can't read", "", api.SeverityWarning},
}

// movesFor is how long a guest that moves may have ports on both hosts: it is nobody's fault.
const movesFor = 10 * time.Second

// splits are the guests of clusters that send from another host, and since when.
type splits struct {
	mu    sync.Mutex // guards what follows
	since map[string]map[string]time.Time
}

// lasting are the faults of a cluster but for those of guests that may just be moving.
func (s *splits) lasting(c *Cluster) []ClusterFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	was, is := s.since[c.Name], make(map[string]time.Time)
	s.since[c.Name] = is
	return slices.DeleteFunc(slices.Clone(c.Faults), func(f ClusterFault) bool {
		if f.Kind != "split" {
			return false
		}
		began, there := was[f.Subject]
		if !there {
			began = time.Now()
		}
		is[f.Subject] = began
		return time.Since(began) < movesFor
	})
}

// Clusters is the source of what is not as it should be between the hosts of clusters.
func Clusters(list func() []Cluster) Source {
	seen := &splits{since: make(map[string]map[string]time.Time)}
	return Source{"clusters", func(context.Context) ([]api.Condition, error) {
		var all []api.Condition
		for _, c := range list() {
			away := false
			for _, f := range seen.lasting(&c) {
				k, known := clusterKinds[f.Kind]
				if !known {
					continue
				}
				away = away || f.Kind == "away" || f.Kind == "lost"
				networks := slices.Clone(c.Networks)
				if f.Network != "" {
					networks = []string{f.Network}
				}
				all = append(all, api.Condition{
					Kind: k.kind, Severity: k.severity, Networks: networks, Message: fmt.Sprintf(k.message, c.Name), Evidence: f.Subject + ": " + f.Text, Remedy: k.remedy,
				})
			}
			for _, host := range c.Silent {
				if !away { // else nothing is known of it
					all = append(all, api.Condition{
						Kind: "cluster-host-silent", Severity: api.SeverityWarning, Networks: slices.Clone(c.Networks),
						Message: fmt.Sprintf("host %s of cluster %q is silent: its guests may run, but nobody learns where they go", host, c.Name), Evidence: "its vnetd does not talk to the store", Remedy: "vnetctl cluster hosts",
					})
				}
			}
		}
		return all, nil
	}}
}
