package admin

import (
	"context"

	"github.com/vnetd/vnetd/pkg/api"
)

// Cluster is a cluster with a store, as this program knows it.
type Cluster struct {
	Name      string
	Endpoints []string
	Secure    bool      // by certificates
	Dir       Directory // of the authority; it is there on one machine alone
	Self      string    // the name of this host, "" if it does not belong to the cluster
}

// Do carries out any request but that to make the cluster.
func (c Cluster) Do(ctx context.Context, s Store, req api.ClusterRequest) (any, error) {
	switch req.Do {
	case api.ClusterAddHost:
		return c.addHost(ctx, s, req)
	case api.ClusterHosts:
		return Hosts(ctx, s, c.Name)
	case api.ClusterForget:
		return Forget(ctx, s, c.Name, req.Host, req.Force, c.Secure)
	case api.ClusterExport:
		return Export(ctx, s, c.Name)
	case api.ClusterRestore:
		if req.Keys == nil {
			return nil, api.Errorf(api.Invalid, "there are no keys to restore")
		}
		return Restore(ctx, s, c.Name, *req.Keys)
	case api.ClusterWhere:
		guests, err := Where(ctx, s, c.Name, req.What)
		return api.ClusterFound{Self: c.Self, Guests: guests}, err
	}
	return nil, api.Errorf(api.Unsupported, "%q is nothing that vnet-cluster does: it is of another version than vnetctl", req.Do)
}

// addHost makes what a host needs, and its rights in the store.
func (c Cluster) addHost(ctx context.Context, s Store, req api.ClusterRequest) (any, error) {
	if err := CheckHost(req.Host, req.Underlay); err != nil {
		return nil, err
	}
	if _, _, err := snapshot(ctx, s, c.Name); err != nil { // does it answer, and is it the one?
		return nil, err
	}
	kit, err := c.Dir.HostKit(c.Name, req.Host, req.Underlay, c.Endpoints, c.Secure)
	if err != nil || !c.Secure {
		return kit, err
	}
	if err := s.AddHost(ctx, c.Name, req.Host); err != nil {
		return nil, err
	}
	return kit, s.LetDefine(ctx, c.Name, req.Host, req.MayDefine)
}
