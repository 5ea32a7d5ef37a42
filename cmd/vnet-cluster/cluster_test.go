package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/etcd"
	"github.com/vnetd/vnetd/pkg/cluster/pki"
)

const (
	secure = "https://127.0.0.1:2379"
	plain  = "http://127.0.0.1:2379"
	limits = 30 * time.Second
)

// ask has something done as vnetctl does, and returns the error's kind and text.
func ask[T any](t *testing.T, req api.ClusterRequest) (result T, kind api.Kind, text string) {
	t.Helper()
	in, err := json.Marshal(req)
	if err != nil {
		t.Fatal(err)
	}
	a := answer(t.Context(), bytes.NewReader(in))
	if a.Error == "" {
		if err := json.Unmarshal(a.Result, &result); err != nil {
			t.Fatalf("%s: %v: %s", req.Do, err, a.Result)
		}
	}
	return result, a.Kind, a.Error
}

// must is ask for what must succeed.
func must[T any](t *testing.T, req api.ClusterRequest) T {
	t.Helper()
	result, kind, text := ask[T](t, req)
	if text != "" {
		t.Fatalf("%s: %s: %s", req.Do, kind, text)
	}
	return result
}

// startEtcd starts etcd by what init wrote for it.
func startEtcd(t *testing.T, dir string) *nstest.Etcd {
	t.Helper()
	files := filepath.Join(dir, "etcd", "127.0.0.1")
	text, err := os.ReadFile(filepath.Join(files, "etcd.env"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(text), "/etc/etcd/", files+"/")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") && name != "ETCD_DATA_DIR" {
			t.Setenv(name, value)
		}
	}
	return nstest.StartEtcd(t)
}

// store opens etcd with files of a directory.
func store(t *testing.T, f etcd.Files) *etcd.Store {
	t.Helper()
	cfg, _, err := f.Load()
	if err != nil {
		t.Fatal(err)
	}
	s, err := etcd.Open(etcd.Config{Endpoints: []string{secure}, TLS: cfg})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// hostFiles are a host's, as add-host made them.
func hostFiles(dir, host string) etcd.Files {
	at := filepath.Join(dir, "hosts", host)
	return etcd.Files{CA: filepath.Join(at, "ca.crt"), Cert: filepath.Join(at, "host.crt"), Key: filepath.Join(at, "host.key")}
}

// TestMake makes a cluster from nothing with Debian's etcd, twice, and lets hosts in, who
// may write what is their own alone.
func TestMake(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "cluster")
		init := api.ClusterRequest{Do: api.ClusterInit, Cluster: "lab", Dir: dir, Endpoints: []string{secure}}
		certificates := init
		certificates.Certificates = true
		if made := must[api.ClusterMade](t, certificates); len(made.Files) == 0 || made.UUID != "" {
			t.Errorf("%+v", made)
		}
		keysAreSecret(t, dir)
		if _, _, text := ask[api.ClusterMade](t, init); !strings.Contains(text, "connection refused") || !strings.Contains(text, "start it with that") {
			t.Errorf("without etcd: %s", text)
		}
		server := startEtcd(t, dir)
		var made api.ClusterMade
		nstest.Eventually(t, limits, "a cluster", func() error {
			var text string
			if made, _, text = ask[api.ClusterMade](t, init); text != "" {
				return errors.New(text)
			}
			return nil
		})
		if !made.New || len(made.Files) != 0 || made.UUID == "" {
			t.Errorf("%+v", made)
		}
		if again := must[api.ClusterMade](t, init); again.New || again.UUID != made.UUID {
			t.Errorf("made a second time: %+v", again)
		}
		for i, host := range []string{"h1", "h2", "h1"} {
			kit := must[api.ClusterHostKit](t, api.ClusterRequest{Do: api.ClusterAddHost, Dir: dir, Host: host, Underlay: netip.MustParseAddr("10.0.0.1")})
			if i < 2 == (len(kit.Files) == 0) || !strings.Contains(kit.Config, "[cluster.lab]\nendpoints = [\"https://127.0.0.1:2379\"]\n") || !strings.Contains(kit.Config, "underlay = \"10.0.0.1\"\n") {
				t.Errorf("%+v", kit)
			}
		}
		holdRights(t, dir)
		holdErrors(t, dir)
		isMadeAnew(t, dir, server, init, made.UUID)
	})
}

// isMadeAnew has etcd lose all, its users too, and makes the same cluster by what was kept.
func isMadeAnew(t *testing.T, dir string, server *nstest.Etcd, init api.ClusterRequest, uuid string) {
	t.Helper()
	kept := must[api.ClusterKeys](t, api.ClusterRequest{Do: api.ClusterExport, Dir: dir})
	server.Wipe()
	server.Start()
	nstest.Eventually(t, limits, "the cluster again", func() error {
		made, _, text := ask[api.ClusterMade](t, init)
		if text != "" {
			return errors.New(text)
		}
		if made.UUID != uuid || !made.New {
			t.Errorf("it is %+v, was %s", made, uuid)
		}
		return nil
	})
	must[api.ClusterHostKit](t, api.ClusterRequest{Do: api.ClusterAddHost, Dir: dir, Host: "h2", Underlay: netip.MustParseAddr("10.0.0.1")})
	if done := must[api.ClusterRestored](t, api.ClusterRequest{Do: api.ClusterRestore, Dir: dir, Keys: &kept}); done.Epoch != 2 || !slices.Contains(done.Written, "/vnetd/1/lab/n/apps") {
		t.Errorf("%+v", done)
	}
	if l, err := store(t, hostFiles(dir, "h2")).List(t.Context(), "/vnetd/1/lab/", 0); err != nil || len(l.KVs) < 2 {
		t.Errorf("h2 reads %+v, %v", l, err)
	}
}

// keysAreSecret holds that nobody else reads a key.
func keysAreSecret(t *testing.T, dir string) {
	t.Helper()
	for _, pattern := range []string{"*.key", "*/*/*.key"} {
		all, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(all) == 0 {
			t.Fatalf("%s: %v %v", pattern, all, err)
		}
		for _, path := range all {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", path, info.Mode(), err)
			}
		}
	}
}

// holdRights has a host write its own, and try to write another's.
func holdRights(t *testing.T, dir string) {
	t.Helper()
	h1 := store(t, hostFiles(dir, "h1"))
	put := func(key string) error {
		_, err := h1.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: key, Value: []byte(`{"v":1}`)}}})
		return err
	}
	for key, may := range map[string]bool{"/vnetd/1/lab/h/h1/l/apps/10.0.0.9": true, "/vnetd/1/lab/h/h2/member": false, "/vnetd/1/lab/n/apps": false, "/vnetd/1/lab/meta": false} {
		if err := put(key); (err == nil) != may || !may && !errors.Is(err, cluster.ErrDenied) {
			t.Errorf("h1 writes %s: %v, may %v", key, err, may)
		}
	}
	add := api.ClusterRequest{Do: api.ClusterAddHost, Dir: dir, Host: "h1", Underlay: netip.MustParseAddr("10.0.0.1"), MayDefine: true}
	must[api.ClusterHostKit](t, add)
	if err := errors.Join(put("/vnetd/1/lab/n/apps"), put("/vnetd/1/lab/vni/7")); err != nil {
		t.Errorf("a host that may define: %v", err)
	}
	add.MayDefine = false
	must[api.ClusterHostKit](t, add)
	if err := put("/vnetd/1/lab/n/apps"); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("a host that may define no longer: %v", err)
	}
	if _, kind, text := ask[api.ClusterHostKit](t, api.ClusterRequest{Do: api.ClusterAddHost, Dir: dir, Host: "root", Underlay: add.Underlay}); kind != api.Invalid || !strings.Contains(text, "may do everything") {
		t.Errorf("a host called root: %s %s", kind, text)
	}
	if done := must[api.ClusterForgotten](t, api.ClusterRequest{Do: api.ClusterForget, Dir: dir, Host: "h1"}); done.Keys != 1 {
		t.Errorf("%+v", done)
	}
	if err := put("/vnetd/1/lab/h/h1/l/apps/10.0.0.9"); !errors.Is(err, cluster.ErrDenied) {
		t.Errorf("a host that is forgotten writes: %v", err)
	}
	if _, kind, _ := ask[api.ClusterForgotten](t, api.ClusterRequest{Do: api.ClusterForget, Dir: dir, Host: "h1"}); kind != api.NotFound {
		t.Errorf("a host is forgotten twice: %s", kind)
	}
}

// holdErrors holds what is said of certificates that are none of the cluster's: one
// sentence that says what is wrong.
func holdErrors(t *testing.T, dir string) {
	t.Helper()
	read := func(names ...string) []byte {
		text, err := os.ReadFile(filepath.Join(append([]string{dir}, names...)...))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	ca, err := pki.Open(pki.Pair{Cert: read("ca.crt"), Key: read("ca.key")})
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := pki.NewAuthority("vnetd cluster lab", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(a *pki.Authority, name string, lasts time.Duration) pki.Pair {
		p, err := a.Client(name, lasts)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, tt := range []struct {
		what     string
		pair     pki.Pair
		ca       []byte
		kind     api.Kind
		contains string
	}{
		{"foreign certificate", sign(foreign, "h2", time.Hour), ca.Pair.Cert, api.Denied, `etcd does not take the certificate of "h2"`},
		{"foreign etcd", sign(ca, "h2", time.Hour), foreign.Pair.Cert, api.Denied, "etcd's certificate is not signed by this cluster's authority"},
		{"expired", sign(ca, "h2", -time.Minute), ca.Pair.Cert, api.Internal, "ended on"},
		{"unknown name", sign(ca, "h9", time.Hour), ca.Pair.Cert, api.Denied, `etcd knows no host "h9"`},
	} {
		at := t.TempDir()
		config := `[cluster.lab]
endpoints = ["` + secure + `"]
ca = "` + at + `/ca.crt"
cert = "` + at + `/host.crt"
key = "` + at + `/host.key"
`
		for name, text := range map[string][]byte{"ca.crt": tt.ca, "host.crt": tt.pair.Cert, "host.key": tt.pair.Key, "vnetd.toml": []byte(config)} {
			if err := os.WriteFile(filepath.Join(at, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, kind, text := ask[api.ClusterHostList](t, api.ClusterRequest{Do: api.ClusterHosts, Config: at + "/vnetd.toml", Dir: at})
		if kind != tt.kind || !strings.Contains(text, tt.contains) || strings.Contains(text, "\n") {
			t.Errorf("%s: %s %q, want %q", tt.what, kind, text, tt.contains)
		}
	}
}

// TestInsecure makes a cluster without certificates, and finds it in a configuration of
// several.
func TestInsecure(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nstest.StartEtcd(t)
		dir := t.TempDir()
		nstest.Eventually(t, limits, "a cluster", func() error {
			_, _, text := ask[api.ClusterMade](t, api.ClusterRequest{Do: api.ClusterInit, Cluster: "lab", Dir: dir, Endpoints: []string{plain}, Insecure: true})
			if text != "" {
				return errors.New(text)
			}
			return nil
		})
		if all, err := os.ReadDir(dir); err != nil || len(all) != 0 {
			t.Errorf("made %v, %v", all, err)
		}
		config := filepath.Join(dir, "vnetd.toml")
		text := "log_level = \"info\"\n[cluster.lab]\nendpoints = [\"" + plain + "\"]\ninsecure = true\nhost = \"h1\"\n[cluster.other]\nendpoints = [\"" + plain + "\"]\ninsecure = true\n"
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		list := must[api.ClusterHostList](t, api.ClusterRequest{Do: api.ClusterHosts, Config: config, Dir: dir, Cluster: "lab"})
		if list.Cluster != "lab" || list.UUID == "" || len(list.Hosts) != 0 {
			t.Errorf("%+v", list)
		}
		for _, tt := range []struct {
			cluster string
			kind    api.Kind
			want    string
		}{
			{"", api.Invalid, "say which by --cluster"},
			{"none", api.NotFound, `has no cluster "none", but lab, other`},
			{"other", api.NotFound, `the store has no cluster "other"`},
			{"a/b", api.Invalid, "no name of a cluster"},
		} {
			if _, kind, text := ask[api.ClusterHostList](t, api.ClusterRequest{Do: api.ClusterHosts, Config: config, Dir: dir, Cluster: tt.cluster}); kind != tt.kind || !strings.Contains(text, tt.want) {
				t.Errorf("cluster %q: %s %q, want %q", tt.cluster, kind, text, tt.want)
			}
		}
		kit := must[api.ClusterHostKit](t, api.ClusterRequest{Do: api.ClusterAddHost, Config: config, Cluster: "lab", Dir: dir, Host: "h1", Underlay: netip.MustParseAddr("10.0.0.1")})
		if want := "[cluster.lab]\nendpoints = [\"http://127.0.0.1:2379\"]\ninsecure = true\nhost = \"h1\"\nunderlay = \"10.0.0.1\"\n"; kit.Config != want || kit.Dir != "" {
			t.Errorf("%+v", kit)
		}
		if found := must[api.ClusterFound](t, api.ClusterRequest{Do: api.ClusterWhere, Config: config, Cluster: "lab", Dir: dir, What: "web"}); found.Self != "h1" || len(found.Guests) != 0 {
			t.Errorf("%+v", found)
		}
	})
}

// TestEtcdThatAsksNobody refuses to lock everybody out.
func TestEtcdThatAsksNobody(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		dir := t.TempDir()
		init := api.ClusterRequest{Do: api.ClusterInit, Cluster: "lab", Dir: dir, Endpoints: []string{secure}, Certificates: true}
		must[api.ClusterMade](t, init)
		t.Setenv("ETCD_CLIENT_CERT_AUTH", "false")
		files := filepath.Join(dir, "etcd", "127.0.0.1")
		nstest.StartEtcd(t, "--listen-client-urls", secure, "--advertise-client-urls", secure, "--cert-file", files+"/server.crt", "--key-file", files+"/server.key")
		init.Certificates = false
		text := ""
		nstest.Eventually(t, limits, "an answer of etcd", func() error {
			if _, _, text = ask[api.ClusterMade](t, init); strings.Contains(text, "connection refused") {
				return errors.New(text)
			}
			return nil
		})
		if !strings.Contains(text, "lets in who has no certificate: start etcd with --client-cert-auth") {
			t.Errorf("init says %q", text)
		}
	})
}

func TestRequests(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		req  api.ClusterRequest
		kind api.Kind
		want string
	}{
		{api.ClusterRequest{Do: api.ClusterInit, Cluster: "lab", Dir: dir}, api.Invalid, "there are no endpoints"},
		{api.ClusterRequest{Do: api.ClusterInit, Cluster: "lab", Dir: dir, Endpoints: []string{plain}}, api.Invalid, "want https://HOST:PORT"},
		{api.ClusterRequest{Do: api.ClusterInit, Cluster: "", Dir: dir, Endpoints: []string{secure}}, api.Invalid, "no name of a cluster"},
		{api.ClusterRequest{Do: api.ClusterHosts, Dir: dir, Config: dir + "/none"}, api.Internal, "no such file"},
		{api.ClusterRequest{Do: api.ClusterHosts, Dir: dir}, api.NotFound, "no cluster is known"},
	} {
		if _, kind, text := ask[any](t, tt.req); kind != tt.kind || !strings.Contains(text, tt.want) {
			t.Errorf("%+v: %s %q, want %s %q", tt.req, kind, text, tt.kind, tt.want)
		}
	}
	if all, err := filepath.Glob(dir + "/*"); err != nil || slices.Contains(all, "ca.key") {
		t.Errorf("%v %v", all, err)
	}
}
