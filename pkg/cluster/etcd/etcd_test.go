package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/cluster/pki"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

const (
	plain  = "http://127.0.0.1:2379"
	secure = "https://127.0.0.1:2379"
	limit  = 60 * time.Second
)

// open makes a client, and waits until etcd answers.
func open(t *testing.T, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	nstest.Eventually(t, limit, "an answer of etcd", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := s.List(ctx, "/vnetd/1/lab/", 0)
		return err
	})
	return s
}

// TestConform has etcd pass the test that the store in memory passes.
func TestConform(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.StartEtcd(t)
		s := open(t, Config{Endpoints: []string{plain}})
		clustertest.Conform(t, clustertest.Target{
			Store: s,
			Open:  func() cluster.Store { return open(t, Config{Endpoints: []string{plain}}) },
			Compact: func(revision int64) error {
				_, err := s.now().Compact(t.Context(), revision)
				return err
			},
			Expire: func(lease int64) {
				if _, err := s.now().Revoke(t.Context(), clientv3.LeaseID(lease)); err != nil {
					t.Error(err)
				}
			},
		})
	})
}

// TestOutage ends etcd under hosts, and has it come back: what they knew stays, what
// happened meanwhile is told, and a restart from the disk needs no etcd.
func TestOutage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := nstest.StartEtcd(t)
		s := open(t, Config{Endpoints: []string{plain}})
		if err := cluster.Init(t.Context(), s, "lab", "0b7c"); err != nil {
			t.Fatal(err)
		}
		h1, h2 := clustertest.Start(t, s, "lab", "h1", cluster.Saved{}), clustertest.Start(t, open(t, Config{Endpoints: []string{plain}}), "lab", "h2", cluster.Saved{})
		first, second := cluster.Guest{Network: "apps", MAC: record.MAC{2, 1}}, cluster.Guest{Network: "apps", MAC: record.MAC{2, 2}}
		h1.SetPort(first, cluster.Port{UUID: "1", Here: true})
		clustertest.Eventually(t, "h2 knows the guest", func() bool { return h2.Where(first).Host == "h1" && len(h1.Pool("apps")) > 0 })
		server.Stop()
		clustertest.Eventually(t, "both see that etcd is away", func() bool { return h1.Status().Phase == cluster.Away && h2.Status().Phase == cluster.Away })
		h1.SetPort(second, cluster.Port{UUID: "2", Here: true})
		a := cluster.Address{Network: "apps", Addr: h1.Pool("apps")[0].Addr().Next().Next()}
		if h2.Where(first).Underlay.String() != "10.0.0.1" || !h1.MayLease(a, second.MAC) {
			t.Error("what was known is not in force while etcd is away")
		}
		if err := h2.Admit(second, cluster.Port{UUID: "3"}); err == nil || !strings.Contains(err.Error(), "away") {
			t.Errorf("a guest may move here while etcd is away: %v", err)
		}
		server.Start()
		clustertest.Eventually(t, "h2 knows what happened meanwhile", func() bool { return h2.Where(second).Host == "h1" && h1.Status().Phase == cluster.Joined })
	})
}

// TestWatchBeginsLate has a server end between a list and the watch that follows: the watch ends.
func TestWatchBeginsLate(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server := nstest.StartEtcd(t)
		s := open(t, Config{Endpoints: []string{plain}})
		if err := cluster.Init(t.Context(), s, "lab", "0b7c"); err != nil {
			t.Fatal(err)
		}
		server.Stop()
		select {
		case b, open := <-s.Watch(t.Context(), "/vnetd/1/lab/", 1):
			if open && b.Err == nil {
				t.Errorf("got %+v of a server that is gone", b)
			}
		case <-time.After(limit):
			t.Error("the watch waits for a server that is gone")
		}
	})
}

// TestReach has one of two servers stand still, as one does that is cut off: all is asked of the other,
// at once, and a watch ends with the server that it is of.
func TestReach(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const other, peer = "http://127.0.0.1:2479", "http://127.0.0.1:2480"
		servers := []*nstest.Etcd{nstest.StartEtcd(t), nstest.StartEtcd(t, "--listen-client-urls", other, "--advertise-client-urls", other,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)}
		for _, e := range []string{plain, other} {
			open(t, Config{Endpoints: []string{e}})
		}
		s := open(t, Config{Endpoints: []string{plain, other}})
		for i, server := range servers {
			server.Signal(syscall.SIGSTOP)
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if err := s.Reach(ctx, "/vnetd/1/lab/meta"); err != nil {
				t.Fatalf("server %d stands still: %v", i, err)
			}
			cancel()
			for range 20 { // of both in turn, any would wait
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				if _, err := s.Txn(ctx, cluster.Txn{Then: []cluster.Op{{Key: "/vnetd/1/lab/x", Value: []byte("{}")}}}); err != nil {
					t.Errorf("server %d stands still: %v", i, err)
				}
				cancel()
			}
			server.Signal(syscall.SIGCONT)
		}
		l, err := s.List(t.Context(), "/vnetd/1/lab/", 0)
		if err != nil {
			t.Fatal(err)
		}
		watch := s.Watch(t.Context(), "/vnetd/1/lab/", l.Revision+1)
		servers[0].Stop()
		select {
		case b := <-watch:
			if b.Err == nil {
				t.Errorf("the watch tells of %+v", b)
			}
		case <-time.After(limit):
			t.Error("the watch does not tell that its server is gone")
		}
		for _, server := range servers {
			server.Stop()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Reach(ctx, "/vnetd/1/lab/meta"); err == nil {
			t.Error("no server is there, and one is reached")
		}
	})
}

// write puts a pair into files of a directory.
func write(t *testing.T, dir, name string, p pki.Pair) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if err := errors.Join(os.WriteFile(cert, p.Cert, 0o600), os.WriteFile(key, p.Key, 0o600)); err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// certificates makes an authority and what it signs, and returns a function that makes
// the files of a client.
func certificates(t *testing.T, dir string) (server []string, client func(name string, lasts time.Duration) Files) {
	t.Helper()
	ca, err := pki.NewAuthority("vnetd cluster lab", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	caFile, _ := write(t, dir, "ca", ca.Pair)
	pair, err := ca.Server("etcd", []string{"127.0.0.1"}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, key := write(t, dir, "server", pair)
	server = []string{
		"--client-cert-auth", "--trusted-ca-file", caFile, "--cert-file", cert, "--key-file", key,
		"--listen-client-urls", secure, "--advertise-client-urls", secure,
	}
	return server, func(name string, lasts time.Duration) Files {
		pair, err := ca.Client(name, lasts)
		if err != nil {
			t.Fatal(err)
		}
		cert, key := write(t, dir, name, pair)
		return Files{CA: caFile, Cert: cert, Key: key}
	}
}

// load reads the files of a client.
func load(t *testing.T, f Files, host string) *tls.Config {
	t.Helper()
	cfg, id, err := f.Load()
	if err != nil || id.Host != host {
		t.Fatalf("certificate of %s: %+v, %v", host, id, err)
	}
	return cfg
}

// holdRights holds which keys h1 may put.
func holdRights(t *testing.T, s1, admin *Store) {
	t.Helper()
	for key, may := range map[string]bool{
		"/vnetd/1/lab/h/h1/member": true, "/vnetd/1/lab/h/h1/l/apps/10.50.0.1": true, "/vnetd/1/lab/b/apps/010.050.000.000-28": true,
		"/vnetd/1/lab/d/apps/web": true, "/vnetd/1/lab/r/apps/10.50.0.1": true, "/vnetd/1/lab/want/apps/h1": true,
		"/vnetd/1/lab/h/h2/member": false, "/vnetd/1/lab/h/h10/member": false, "/vnetd/1/lab/h/": false, "/vnetd/1/lab/n/apps": false, "/vnetd/1/lab/vni/1": false,
		"/vnetd/1/lab/meta": false, "/vnetd/1/other/h/h1/member": false, "/elsewhere": false,
	} {
		_, err := s1.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: key, Value: []byte("x")}}})
		if may && err != nil || !may && !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("h1 puts %s: %v, may %v", key, err, may)
		}
		if _, err := admin.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: key}}}); err != nil && strings.HasPrefix(key, "/vnetd/1/lab/") {
			t.Errorf("the administrator deletes %s: %v", key, err)
		}
	}
}

// TestRights has each host write what is its own, and nothing else.
func TestRights(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		server, client := certificates(t, dir)
		nstest.StartEtcd(t, server...)
		root := open(t, Config{Endpoints: []string{secure}, TLS: load(t, client("root", time.Hour), "root")})
		for _, err := range []error{
			root.AddHost(t.Context(), "lab", "h1"), root.AddHost(t.Context(), "lab", "h2"),
			root.AddHost(t.Context(), "lab", "h1"), root.AddHost(t.Context(), "other", "h9"), root.EnableAuth(t.Context()),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if root.AddHost(t.Context(), "lab", "root") == nil {
			t.Error("a host may be called root")
		}
		if err := cluster.Init(t.Context(), root, "lab", "0b7c"); err != nil {
			t.Fatal(err)
		}
		s1 := open(t, Config{Endpoints: []string{secure}, TLS: load(t, client("h1", time.Hour), "h1")})
		s2 := open(t, Config{Endpoints: []string{secure}, TLS: load(t, client("h2", time.Hour), "h2")})
		holdRights(t, s1, root)
		if _, err := s1.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "/vnetd/1/lab/h/", Prefix: true}}}); !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("h1 deletes all hosts: %v", err)
		}
		if _, err := s1.List(t.Context(), "/vnetd/1/other/", 0); !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("h1 lists another cluster: %v", err)
		}
		if err := cluster.Init(t.Context(), root, "lab", "0b7c"); err != nil { // the loop deleted it
			t.Fatal(err)
		}
		h1, h2 := clustertest.Start(t, s1, "lab", "h1", cluster.Saved{}), clustertest.Start(t, s2, "lab", "h2", cluster.Saved{})
		clustertest.Eventually(t, "hosts with the rights of hosts know each other", func() bool {
			return len(h1.Peers()) == 1 && !h1.Peers()[0].Silent && len(h2.Peers()) == 1 && !h2.Peers()[0].Silent && len(h1.Pool("apps")) == 1
		})
	})
}

// saidAtOnce holds that who looks for a server is told of a certificate's fault without waiting for
// a deadline: there is none.
func saidAtOnce(t *testing.T, s *Store, what string) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(time.Minute, cancel).Stop()
	err := s.Reach(ctx, "/vnetd/1/lab/meta")
	if _, is := errors.AsType[*CertificateError](err); !is {
		t.Errorf("%s: %v, want the certificate's fault", what, err)
	}
}

// TestWhoIsNotLetIn has etcd, and this host, refuse certificates that are none of theirs.
func TestWhoIsNotLetIn(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		server, client := certificates(t, t.TempDir())
		_, foreign := certificates(t, t.TempDir())
		nstest.StartEtcd(t, server...)
		open(t, Config{Endpoints: []string{secure}, TLS: load(t, client("h1", time.Hour), "h1")})
		mine, other := client("h1", time.Hour), foreign("h1", time.Hour)
		for what, f := range map[string]Files{
			"a certificate of another authority": {CA: mine.CA, Cert: other.Cert, Key: other.Key},
			"another authority's etcd":           {CA: other.CA, Cert: mine.Cert, Key: mine.Key},
		} {
			s, err := Open(Config{Endpoints: []string{secure}, TLS: load(t, f, "h1")})
			if err != nil {
				t.Fatal(err)
			}
			nstest.Eventually(t, limit, what+" is said to be a certificate's fault", func() error { // once it was tried
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				defer cancel()
				_, err := s.List(ctx, "/vnetd/1/lab/", 0)
				if err == nil {
					t.Fatalf("%s passes", what)
				}
				if !strings.Contains(err.Error(), "authority") && !strings.Contains(err.Error(), "bad certificate") && !strings.Contains(err.Error(), "unknown certificate") {
					return err
				}
				return nil
			})
			saidAtOnce(t, s, what)
			_ = s.Close()
		}
		for what, f := range map[string]Files{
			"ended":            client("h1", -time.Second),
			"no host":          client("-", time.Hour),
			"another's key":    {CA: mine.CA, Cert: mine.Cert, Key: other.Key},
			"no authority":     {CA: mine.Key, Cert: mine.Cert, Key: mine.Key},
			"is not there":     {CA: mine.CA, Cert: "/nowhere", Key: mine.Key},
			"authority is not": {CA: "/nowhere", Cert: mine.Cert, Key: mine.Key},
		} {
			if _, _, err := f.Load(); err == nil {
				t.Errorf("files of which one %s pass", what)
			}
		}
	})
}

func TestEndpoints(t *testing.T) {
	for text, secure := range map[string]bool{"https://10.0.0.1:2379": true, "https://[fd00::1]:2379": true, "https://etcd.example.org:2379": true, "http://127.0.0.1:2379": false} {
		if err := CheckEndpoints([]string{text}, secure); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if err := CheckEndpoints([]string{text}, !secure); err == nil {
			t.Errorf("%s passes with the other scheme", text)
		}
	}
	for _, text := range []string{"", "10.0.0.1:2379", "https://10.0.0.1", "https://:2379", "https://10.0.0.1:2379/x", "https://u@10.0.0.1:2379", "unix:/run/etcd"} {
		if err := CheckEndpoints([]string{text}, true); err == nil {
			t.Errorf("%q passes", text)
		}
	}
	if CheckEndpoints(nil, true) == nil {
		t.Error("no endpoints pass")
	}
}
