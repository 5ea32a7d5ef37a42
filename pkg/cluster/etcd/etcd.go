// Package etcd is a cluster.Store in etcd, of version 3.4 or later.
package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"

	"github.com/vnetd/vnetd/pkg/cluster"
)

// How a connection that is dead is found: etcd is asked for a sign of life after so long,
// and must give it within so long.
const (
	askAfter     = 5 * time.Second
	answerWithin = 3 * time.Second
)

// again is after how long etcd is dialled again that did not answer: one that has come back is
// found within a second, however long it was away.
var again = backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 400 * time.Millisecond}

// askAgain is after how long a server is asked again that has not answered.
const askAgain = 300 * time.Millisecond

// connectWithin is how long is waited for a connection of TCP. The kernel sends what was lost
// of one again after a second, and then ever later.
const connectWithin = 400 * time.Millisecond

// dial connects to a server of etcd.
func dial(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: connectWithin}
	return d.DialContext(ctx, "tcp", address)
}

// largest is the largest answer that is read, in bytes: far more than a cluster has.
const largest = 256 << 20

// Config says where etcd is.
type Config struct {
	Endpoints []string
	TLS       *tls.Config // nil: without, for endpoints on this host
}

// Store is a cluster.Store.
type Store struct {
	cfg Config

	mu     sync.Mutex
	client *clientv3.Client // guarded by mu; of all servers until Reach finds one
}

// now is the client that is used from now on.
func (s *Store) now() *clientv3.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// use has another client be used from now on, and closes the one that was.
func (s *Store) use(client *clientv3.Client) {
	s.mu.Lock()
	was := s.client
	s.client = client
	s.mu.Unlock()
	_ = was.Close()
}

// Open makes a client. It connects when it is first used, and again when a connection is
// lost; until then nothing fails.
func Open(cfg Config) (*Store, error) {
	if err := CheckEndpoints(cfg.Endpoints, cfg.TLS != nil); err != nil {
		return nil, err
	}
	client, err := cfg.client(cfg.Endpoints...)
	if err != nil {
		return nil, err
	}
	return &Store{cfg: cfg, client: client}, nil
}

// client makes a client of some of the servers.
func (cfg *Config) client(endpoints ...string) (*clientv3.Client, error) {
	client, err := clientv3.New(clientv3.Config{
		Endpoints: endpoints, TLS: cfg.TLS, Logger: zap.NewNop(),
		DialTimeout: answerWithin, DialKeepAliveTime: askAfter, DialKeepAliveTimeout: answerWithin,
		MaxCallRecvMsgSize: largest,
		DialOptions:        []grpc.DialOption{grpc.WithContextDialer(dial), grpc.WithConnectParams(grpc.ConnectParams{Backoff: again, MinConnectTimeout: answerWithin})},
	})
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return client, nil
}

// CheckEndpoints reports endpoints that are none. Each must be https://HOST:PORT, or, of
// this host and without certificates, http://.
func CheckEndpoints(endpoints []string, secure bool) error {
	if len(endpoints) == 0 {
		return errors.New("there are no endpoints: want, say, https://10.0.0.1:2379")
	}
	scheme := "http"
	if secure {
		scheme = "https"
	}
	for _, text := range endpoints {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != scheme || u.Hostname() == "" || u.Port() == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
			return fmt.Errorf("%q is no endpoint: want %s://HOST:PORT", text, scheme)
		}
	}
	return nil
}

// Txn implements cluster.Store.
func (s *Store) Txn(ctx context.Context, txn cluster.Txn) (cluster.Result, error) {
	compares := make([]clientv3.Cmp, 0, len(txn.If))
	for _, c := range txn.If {
		if c.To == "" {
			compares = append(compares, clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Mod))
		} else {
			compares = append(compares, clientv3.Compare(clientv3.CreateRevision(c.Key).WithRange(c.To), "=", 0))
		}
	}
	ops := make([]clientv3.Op, 0, len(txn.Then))
	for _, op := range txn.Then {
		ops = append(ops, operation(op))
	}
	res, err := s.now().Txn(ctx).If(compares...).Then(ops...).Commit()
	if err != nil {
		return cluster.Result{}, understand(err)
	}
	return cluster.Result{OK: res.Succeeded, Revision: res.Header.Revision}, nil
}

// operation is an operation as etcd has it.
func operation(op cluster.Op) clientv3.Op {
	switch {
	case op.Value == nil && op.Prefix:
		return clientv3.OpDelete(op.Key, clientv3.WithPrefix())
	case op.Value == nil:
		return clientv3.OpDelete(op.Key)
	case op.Lease != 0:
		return clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
	}
	return clientv3.OpPut(op.Key, string(op.Value))
}

// List implements cluster.Store.
func (s *Store) List(ctx context.Context, prefix string, revision int64) (cluster.Listing, error) {
	res, err := s.now().Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(revision), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return cluster.Listing{}, s.denied()
	case err != nil:
		return cluster.Listing{}, cmp.Or(s.refusal(ctx), understand(err))
	}
	l := cluster.Listing{Revision: res.Header.Revision, Store: res.Header.ClusterId, KVs: make([]cluster.KV, 0, len(res.Kvs))}
	for _, kv := range res.Kvs {
		l.KVs = append(l.KVs, keyOf(kv))
	}
	return l, nil
}

func keyOf(kv *mvccpb.KeyValue) cluster.KV {
	return cluster.KV{Key: string(kv.Key), Value: kv.Value, Create: kv.CreateRevision, Mod: kv.ModRevision}
}

// Reach implements cluster.Store. All servers are asked, by connections of their own: one that was
// cut off, or follows no leader, leaves a question without an answer for seconds, and what is sent by
// a connection that was cut comes when TCP sends it again. The first that answers is the one. Where
// all refuse this host by a certificate, nobody waits: what is called would be tried until ctx ends.
func (s *Store) Reach(ctx context.Context, key string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		client *clientv3.Client
		err    error
	}
	answers := make(chan answer)
	for _, e := range s.cfg.Endpoints {
		go func() {
			client, err := s.cfg.ask(ctx, e, key)
			select {
			case answers <- answer{client, err}:
			case <-ctx.Done():
				if client != nil {
					_ = client.Close()
				}
			}
		}()
	}
	barred := s.barred(ctx)
	var last error
	for n := 0; n < len(s.cfg.Endpoints); {
		select {
		case err := <-barred:
			return err
		case a := <-answers:
			n++
			if a.err == nil {
				s.use(a.client)
				return nil
			}
			if errors.Is(a.err, rpctypes.ErrPermissionDenied) {
				return s.denied()
			}
			last = a.err
		case <-ctx.Done():
			return cmp.Or(s.refusal(ctx), understand(ctx.Err()))
		}
	}
	return cmp.Or(s.refusal(ctx), understand(last))
}

// ask has one server answer a question about a key, and returns its client. A question is asked again
// when there was no answer for so long: the server may have had no leader.
func (cfg *Config) ask(ctx context.Context, endpoint, key string) (*clientv3.Client, error) {
	client, err := cfg.client(endpoint)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error)
	every := time.NewTicker(askAgain)
	defer every.Stop()
	for {
		go func() {
			_, err := client.Get(ctx, key)
			select {
			case answers <- err:
			case <-ctx.Done():
			}
		}()
		select {
		case err = <-answers:
			if err == nil {
				return client, nil
			}
			_ = client.Close()
			return nil, err
		case <-ctx.Done():
			_ = client.Close()
			return nil, ctx.Err()
		case <-every.C:
		}
	}
}

// denied is the error of a host that may not even read: every host of the cluster may.
func (s *Store) denied() error {
	return fmt.Errorf("etcd knows no host %q of this cluster, let in by \"vnetctl cluster add-host\": %w", s.user(), cluster.ErrDenied)
}

// errCut says that a connection was lost.
var errCut = errors.New("etcd: the connection is lost")

// cut is closed once a client that is connected is not any more, or is not soon. A watch would
// wait then, without a word, until it is.
func cut(ctx context.Context, client *clientv3.Client) <-chan struct{} {
	lost := make(chan struct{})
	conn := client.ActiveConnection()
	go func() {
		soon, cancel := context.WithTimeout(ctx, answerWithin)
		defer cancel()
		for is := conn.GetState(); is != connectivity.Ready; is = conn.GetState() {
			if !conn.WaitForStateChange(soon, is) {
				close(lost)
				return
			}
		}
		if conn.WaitForStateChange(ctx, connectivity.Ready) {
			close(lost)
		}
	}()
	return lost
}

// Watch implements cluster.Store. It ends as well where the member of etcd that is asked
// has no leader, or is gone before it has heard of the watch: it would tell of nothing.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) <-chan cluster.Batch {
	out := make(chan cluster.Batch)
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	client := s.now()
	lost, opened := cut(ctx, client), make(chan clientv3.WatchChan, 1)
	go func() { // until etcd has heard of it
		opened <- client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from))
	}()
	go func() {
		defer close(out)
		defer cancel()
		var changes clientv3.WatchChan
		for ctx.Err() == nil {
			b := cluster.Batch{Err: errCut}
			select {
			case <-lost:
			case changes = <-opened:
				continue
			case res, open := <-changes:
				if !open {
					return
				}
				if b = batchOf(res); len(b.Events) == 0 && b.Err == nil {
					continue
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
			if b.Err != nil {
				return
			}
		}
	}()
	return out
}

// batchOf is what a watch tells. Its header may be ahead of its events.
func batchOf(res clientv3.WatchResponse) cluster.Batch {
	if err := res.Err(); err != nil {
		return cluster.Batch{Err: understand(err)}
	}
	b := cluster.Batch{Events: make([]cluster.Event, 0, len(res.Events))}
	for _, e := range res.Events {
		b.Events = append(b.Events, cluster.Event{KV: keyOf(e.Kv), Deleted: e.Type == clientv3.EventTypeDelete})
		b.Revision = e.Kv.ModRevision
	}
	return b
}

// Session implements cluster.Store.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (cluster.Session, error) {
	grantCtx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	client := s.now()
	lease, err := client.Grant(grantCtx, int64(ttl/time.Second))
	if err != nil {
		return cluster.Session{}, understand(err)
	}
	alive, err := client.KeepAlive(ctx, lease.ID)
	if err != nil {
		return cluster.Session{}, understand(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range alive { // until the lease is lost, or ctx ends
			continue
		}
		if ctx.Err() != nil {
			revoke(client, lease.ID)
		}
	}()
	return cluster.Session{Lease: int64(lease.ID), Done: done}, nil
}

// revoke ends a lease, so that the others need not wait for it to.
func revoke(client *clientv3.Client, id clientv3.LeaseID) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = client.Revoke(ctx, id) // it ends by itself as well
}

// Close implements cluster.Store.
func (s *Store) Close() error { return s.now().Close() }

// understand says what an error of etcd means.
func understand(err error) error {
	for _, known := range []struct {
		theirs, ours error
		helps        string
	}{
		{rpctypes.ErrCompacted, cluster.ErrCompacted, ""},
		{rpctypes.ErrPermissionDenied, cluster.ErrDenied, ""},
		{rpctypes.ErrNoSpace, cluster.ErrFull, ": etcdctl compact, etcdctl defrag and etcdctl alarm disarm, in this order, have it take writes again"},
	} {
		if errors.Is(err, known.theirs) {
			return fmt.Errorf("etcd: %w%s", known.ours, known.helps)
		}
	}
	return fmt.Errorf("etcd: %w", err)
}
