package main

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/bridge/vxlan"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/disk"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
	"github.com/vnetd/vnetd/pkg/network/member"
)

// hosts are this host as a host of its clusters, and what is to be closed after them.
type hosts struct {
	clusters *member.Clusters
	closers  []func() error
}

// close closes files and connections.
func (h *hosts) close() error {
	var errs []error
	for _, f := range slices.Backward(h.closers) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// joinClusters makes this host one of its clusters: what it knows of each is read from the
// disk, nobody is asked anything yet. Without a cluster it does nothing.
func joinClusters(cfg config, tunnels *vxlan.Tunnels, log *slog.Logger) (*hosts, error) {
	h := new(hosts)
	var all []*member.Cluster
	for i := range cfg.Clusters {
		c, err := h.join(&cfg.Clusters[i], cfg.Dirs.State, tunnels, log)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cluster %q: %w", cfg.Clusters[i].Name, err), h.close())
		}
		all = append(all, c)
	}
	if len(all) > 0 {
		h.clusters = member.New(all, log)
	}
	return h, nil
}

// join makes this host one of a cluster.
func (h *hosts) join(c *clusterConfig, state string, tunnels *vxlan.Tunnels, log *slog.Logger) (*member.Cluster, error) {
	store := &lateStore{cfg: c}
	err := store.open()
	host := cmp.Or(store.host, c.Host)
	if err != nil {
		log.Error("the cluster is away until this is put right", "cluster", c.Name, "error", err)
	}
	if host == "" {
		return nil, fmt.Errorf("host: this host's name in it is not known: %w", err)
	}
	h.closers = append(h.closers, store.Close)
	if err := os.MkdirAll(state, 0o755); err != nil {
		return nil, err
	}
	file, err := disk.Open(filepath.Join(state, "cluster-"+c.Name+".db"))
	if err != nil {
		return nil, err
	}
	h.closers = append(h.closers, file.Close)
	saved, err := file.Load()
	if err != nil {
		return nil, err
	}
	boot, err := ether.NewUUID(crand.Reader)
	if err != nil {
		return nil, err
	}
	at, _ := tunnels.Underlay([]netip.Addr{c.Underlay}, nil) // it may come later
	m := cluster.New(cluster.Config{
		Cluster: c.Name, Host: host, Boot: boot.String(), Underlay: c.Underlay, MTU: at.MTU, Version: programVersion(),
		Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	})
	m.Load(saved)
	log = log.With("cluster", c.Name)
	return &member.Cluster{
		Name: c.Name, Host: host, Underlay: c.Underlay, Port: c.Port, Stores: c.stores(), Version: programVersion(), Member: m,
		Runner: &cluster.Runner{Member: m, Store: store, Disk: file, TTL: c.TTL, Logger: log},
	}, nil
}

// lateStore is etcd, opened once that can be: certificates that are not there, or have ended,
// keep vnetd from its cluster and not from its guests.
type lateStore struct {
	cfg *clusterConfig

	mu   sync.Mutex // guards what follows
	etcd *etcd.Store
	host string // this host's name
}

// open opens it, unless it is open.
func (s *lateStore) open() error {
	_, err := s.get()
	return err
}

func (s *lateStore) get() (*etcd.Store, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etcd != nil {
		return s.etcd, nil
	}
	host, certificates, err := s.cfg.identity()
	if err != nil {
		s.host = host // which may be known all the same
		return nil, err
	}
	opened, err := etcd.Open(etcd.Config{Endpoints: s.cfg.Endpoints, TLS: certificates})
	if err == nil {
		s.etcd, s.host = opened, host
	}
	return s.etcd, err
}

// Txn implements cluster.Store, as do the others.
func (s *lateStore) Txn(ctx context.Context, txn cluster.Txn) (cluster.Result, error) {
	store, err := s.get()
	if err != nil {
		return cluster.Result{}, err
	}
	return store.Txn(ctx, txn)
}

func (s *lateStore) Reach(ctx context.Context, key string) error {
	store, err := s.get()
	if err != nil {
		return err
	}
	return store.Reach(ctx, key)
}

func (s *lateStore) List(ctx context.Context, prefix string, revision int64) (cluster.Listing, error) {
	store, err := s.get()
	if err != nil {
		return cluster.Listing{}, err
	}
	return store.List(ctx, prefix, revision)
}

func (s *lateStore) Watch(ctx context.Context, prefix string, from int64) <-chan cluster.Batch {
	store, err := s.get()
	if err != nil {
		failed := make(chan cluster.Batch, 1)
		failed <- cluster.Batch{Err: err}
		close(failed)
		return failed
	}
	return store.Watch(ctx, prefix, from)
}

func (s *lateStore) Session(ctx context.Context, ttl time.Duration) (cluster.Session, error) {
	store, err := s.get()
	if err != nil {
		return cluster.Session{}, err
	}
	return store.Session(ctx, ttl)
}

func (s *lateStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.etcd == nil {
		return nil
	}
	return s.etcd.Close()
}

// stores are the addresses of etcd, as far as they are not names.
func (c *clusterConfig) stores() (all []netip.Addr) {
	for _, endpoint := range c.Endpoints {
		u, err := url.Parse(endpoint)
		if err != nil {
			continue
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil {
			all = append(all, a)
		}
	}
	return all
}

// identity is this host's name and what it shows others to prove it. The name may be known
// where there is an error.
func (c *clusterConfig) identity() (host string, certificates *tls.Config, err error) {
	if c.Files == (etcd.Files{}) {
		return c.Host, nil, nil
	}
	certificates, id, err := c.Files.Load()
	if err != nil {
		return cmp.Or(c.Host, id.Host), nil, err
	}
	if c.Host != "" && c.Host != id.Host {
		return "", nil, fmt.Errorf("host: %q is not the common name of the certificate %s, which is %q", c.Host, c.Files.Cert, id.Host)
	}
	return cmp.Or(c.Host, id.Host), certificates, nil
}
