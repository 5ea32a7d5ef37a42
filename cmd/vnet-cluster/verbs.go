package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster/admin"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

// limit is how long the store may take for all that is asked of it.
const limit = 10 * time.Second

// do carries a request out.
func do(ctx context.Context, req api.ClusterRequest) (any, error) {
	if req.Cluster != "" || req.Do == api.ClusterInit {
		if err := admin.CheckName(req.Cluster); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if req.Do == api.ClusterInit {
		return initialize(ctx, req)
	}
	s, err := find(req)
	if err != nil {
		return nil, err
	}
	store, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	result, err := s.Do(ctx, store, req)
	return result, errors.Join(err, store.Close())
}

// initialize makes certificates, and a cluster in the store.
func initialize(ctx context.Context, req api.ClusterRequest) (any, error) {
	if err := etcd.CheckEndpoints(req.Endpoints, !req.Insecure); err != nil {
		return nil, &api.Error{Kind: api.Invalid, Err: err}
	}
	dir := admin.Directory(req.Dir)
	made := api.ClusterMade{Cluster: req.Cluster, Files: []string{}, Servers: []api.EtcdServer{}}
	s := settings{Cluster: admin.Cluster{Name: req.Cluster, Endpoints: req.Endpoints, Secure: !req.Insecure}}
	uuid := ""
	if !req.Insecure {
		var err error
		if made, err = dir.Certificates(req.Cluster, req.Endpoints); err != nil || req.Certificates {
			return made, err
		}
		if uuid, err = dir.UUID(req.Cluster); err != nil {
			return nil, err
		}
		s.files = etcd.Files{CA: filepath.Join(req.Dir, "ca.crt"), Cert: filepath.Join(req.Dir, "admin.crt"), Key: filepath.Join(req.Dir, "admin.key")}
	}
	store, err := s.open(ctx)
	if err != nil && s.Secure {
		err = fmt.Errorf("%w; what etcd needs is in %s: start it with that, and run this again", err, filepath.Join(req.Dir, "etcd"))
	}
	if err != nil {
		return nil, err
	}
	made.UUID, made.New, err = admin.Init(ctx, store, req.Cluster, uuid, !req.Insecure)
	return made, errors.Join(err, store.Close())
}
