package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster/admin"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
)

// vnetdConfig is vnetd's configuration.
const vnetdConfig = "/etc/vnetd/vnetd.toml"

// settings are how a cluster's store is reached.
type settings struct {
	admin.Cluster
	files etcd.Files
}

// file is what is read of vnetd's configuration, and of what init wrote.
type file struct {
	Cluster map[string]struct {
		Endpoints []string `toml:"endpoints"`
		CA        string   `toml:"ca"`
		Cert      string   `toml:"cert"`
		Key       string   `toml:"key"`
		Host      string   `toml:"host"`
	} `toml:"cluster"`
}

// find finds the settings of a cluster: in the file that was asked for, or in vnetd's
// configuration, or in what init wrote. The administrator's certificate is used where it
// is, and else the host's, with which all can be read.
func find(req api.ClusterRequest) (settings, error) {
	paths := []string{req.Config}
	if req.Config == "" {
		paths = []string{vnetdConfig, filepath.Join(req.Dir, admin.SettingsFile)}
	}
	for _, path := range paths {
		var f file
		_, err := toml.DecodeFile(path, &f)
		switch {
		case errors.Is(err, fs.ErrNotExist) && req.Config == "":
			continue
		case err != nil:
			return settings{}, fmt.Errorf("%s: %w", path, err)
		case len(f.Cluster) > 0:
			return f.choose(path, req)
		}
	}
	return settings{}, api.Errorf(api.NotFound, "no cluster is known: none of %s has a section [cluster.NAME]", strings.Join(paths, ", "))
}

// choose returns the settings of the cluster that was asked for, or of the only one.
func (f file) choose(path string, req api.ClusterRequest) (settings, error) {
	names := slices.Sorted(maps.Keys(f.Cluster))
	name := cmp.Or(req.Cluster, names[0])
	c, there := f.Cluster[name]
	switch {
	case !there:
		return settings{}, api.Errorf(api.NotFound, "%s has no cluster %q, but %s", path, name, strings.Join(names, ", "))
	case req.Cluster == "" && len(names) > 1:
		return settings{}, api.Errorf(api.Invalid, "%s has clusters %s: say which by --cluster", path, strings.Join(names, ", "))
	}
	s := settings{files: etcd.Files{CA: c.CA, Cert: c.Cert, Key: c.Key}}
	s.Cluster = admin.Cluster{Name: name, Endpoints: c.Endpoints, Secure: c.Cert != "", Dir: admin.Directory(req.Dir), Self: cmp.Or(c.Host, admin.HostOf(c.Cert))}
	mine := etcd.Files{CA: filepath.Join(req.Dir, "ca.crt"), Cert: filepath.Join(req.Dir, "admin.crt"), Key: filepath.Join(req.Dir, "admin.key")}
	theirs, err := os.ReadFile(c.CA)
	ours, err2 := os.ReadFile(mine.CA)
	if _, err3 := os.Stat(mine.Cert); errors.Join(err, err2, err3) == nil && bytes.Equal(ours, theirs) {
		s.files = mine
	}
	return s, nil
}

// open makes a client of the store, which lets it in.
func (s settings) open(ctx context.Context) (*etcd.Store, error) {
	cfg := etcd.Config{Endpoints: s.Endpoints}
	if s.Secure {
		tls, _, err := s.files.Load()
		if err != nil {
			return nil, err
		}
		cfg.TLS = tls
	}
	store, err := etcd.Open(cfg)
	if err != nil {
		return nil, err
	}
	if err := store.Check(ctx); err != nil {
		return nil, errors.Join(err, store.Close())
	}
	return store, nil
}
