package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/clustertest"
	"github.com/vnetd/vnetd/pkg/cluster/pki"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

var update = flag.Bool("update", false, "write the golden files")

var three = []string{"https://10.0.0.1:2379", "https://[fd00::2]:2379", "https://etcd3.example.org:4001"}

// contents reads all files below a directory.
func contents(t *testing.T, d Directory) map[string]string {
	t.Helper()
	all := make(map[string]string)
	err := filepath.WalkDir(string(d), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, string(d)+"/")] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestAgain holds that what is there stays, whoever asks for it a second time.
func TestAgain(t *testing.T) {
	d := Directory(filepath.Join(t.TempDir(), "a", "cluster"))
	make := func(endpoints []string) api.ClusterMade {
		t.Helper()
		made, err := d.Certificates("lab", endpoints)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	if made := make(three[:2]); len(made.Files) != 4+2*4+1 {
		t.Errorf("made %v", made.Files)
	}
	first := contents(t, d)
	if made := make(three[:2]); len(made.Files) != 0 {
		t.Errorf("made a second time: %v", made.Files)
	}
	make(three)
	for name, text := range contents(t, d) {
		if old, there := first[name]; there && old != text && !strings.HasSuffix(name, "etcd.env") && name != SettingsFile {
			t.Errorf("%s is another one", name)
		}
	}
	if _, err := d.Certificates("other", three); err == nil || !strings.Contains(err.Error(), `not that of cluster "other"`) {
		t.Errorf("another cluster in the same directory: %v", err)
	}
}

// TestEnvironment holds what etcd's servers are started with.
func TestEnvironment(t *testing.T) {
	d := Directory(t.TempDir())
	if _, err := d.Certificates("lab", three); err != nil {
		t.Fatal(err)
	}
	var all []byte
	for _, server := range []string{"10.0.0.1", "fd00::2", "etcd3.example.org"} {
		text, err := os.ReadFile(d.path("etcd", server, "etcd.env"))
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, text...), '\n')
	}
	if *update {
		if err := os.WriteFile("testdata/etcd.env", all, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if want, err := os.ReadFile("testdata/etcd.env"); err != nil || !bytes.Equal(all, want) {
		t.Errorf("%v: etcd is started with\n%s\nwant\n%s", err, all, want)
	}
}

// TestAuthorityIsNeverReplaced takes a part of it away.
func TestAuthorityIsNeverReplaced(t *testing.T) {
	for _, gone := range []string{"ca.key", "ca.crt"} {
		d := Directory(t.TempDir())
		if _, err := d.Certificates("lab", three[:1]); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(d.path(gone)); err != nil {
			t.Fatal(err)
		}
		before := contents(t, d)
		if _, err := d.Certificates("lab", three[:1]); err == nil || !strings.Contains(err.Error(), gone) {
			t.Errorf("without %s: %v", gone, err)
		}
		if after := contents(t, d); len(after) != len(before) {
			t.Errorf("without %s: %d files, then %d", gone, len(before), len(after))
		}
	}
}

// TestRenewal makes certificates anew that end soon, and no others.
func TestRenewal(t *testing.T) {
	d := Directory(t.TempDir())
	h := netip.MustParseAddr("10.0.0.9")
	if _, err := d.Certificates("lab", three[:1]); err != nil {
		t.Fatal(err)
	}
	kit := func() api.ClusterHostKit {
		k, err := d.HostKit("lab", "h1", h, three[:1], true)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if k := kit(); len(k.Files) != 4 || k.Dir != d.path("hosts", "h1") {
		t.Errorf("%+v", k)
	}
	if k := kit(); len(k.Files) != 0 {
		t.Errorf("made a second time: %v", k.Files)
	}
	m, err := d.open("lab", false)
	if err != nil {
		t.Fatal(err)
	}
	soon, err := m.ca.Client("h1", renew-time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.writePair(soon, true, "hosts", "h1", host); err != nil {
		t.Fatal(err)
	}
	if k := kit(); len(k.Files) != 2 {
		t.Errorf("of a certificate that ends soon: %v", k.Files)
	}
	foreign, err := pki.NewAuthority(commonName("lab"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := foreign.Client("h1", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.writePair(theirs, true, "hosts", "h1", host); err != nil {
		t.Fatal(err)
	}
	if _, err := d.HostKit("lab", "h1", h, three[:1], true); err == nil || !strings.Contains(err.Error(), "remove it to have it made anew") {
		t.Errorf("a certificate of another authority: %v", err)
	}
}

// lab is a store with two hosts and two guests, of which h2 is silent.
func lab(t *testing.T) *clustertest.Store {
	t.Helper()
	s := clustertest.New()
	if err := cluster.Init(t.Context(), s, "lab", "0b7c"); err != nil {
		t.Fatal(err)
	}
	web, db := record.MAC{0x52, 0x54, 0, 0, 0, 1}, record.MAC{0x52, 0x54, 0, 0, 0, 2}
	put := func(k record.Key, v record.Value) {
		op := cluster.Op{Key: k.Path("lab"), Value: record.Encode(v)}
		if k.Kind == record.KindAlive {
			op.Lease = s.Grant()
		}
		if _, err := s.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{op}}); err != nil {
			t.Fatal(err)
		}
	}
	addr := netip.MustParseAddr
	for i, h := range []string{"h1", "h2"} {
		put(record.Key{Kind: record.KindMember, Host: h}, &record.Member{Underlay: addr("10.0.0.1"), MTU: 1500, Version: "1.0", Epoch: 1})
		put(record.Key{Kind: record.KindBlock, Network: "apps", ID: []string{"010.050.000.000-28", "010.050.000.016-28"}[i]}, &record.Block{Host: h})
	}
	put(record.Key{Kind: record.KindAlive, Host: "h1"}, &record.Alive{Boot: "b"})
	put(record.Key{Kind: record.KindPort, Host: "h1", Network: "apps", ID: web.String()}, &record.Port{UUID: "1", Name: "web", Seq: 1, State: record.Moved})
	put(record.Key{Kind: record.KindPort, Host: "h2", Network: "apps", ID: web.String()}, &record.Port{UUID: "2", Name: "web", Seq: 2, State: record.Here})
	put(record.Key{Kind: record.KindPort, Host: "h1", Network: "apps", ID: db.String()}, &record.Port{UUID: "3", Name: "db", Seq: 1, State: record.Incoming})
	put(record.Key{Kind: record.KindLease, Host: "h1", Network: "apps", ID: "10.50.0.2"}, &record.Lease{MAC: web, Name: "web"})
	put(record.Key{Kind: record.KindLease, Host: "h1", Network: "apps", ID: "10.50.0.3"}, &record.Lease{MAC: record.MAC{2, 3}, Name: "old"})
	put(record.Key{Kind: record.KindNetwork, Network: "apps"}, &record.Network{XML: "<network><name>apps</name> & </network>", Generation: 3})
	put(record.Key{Kind: record.KindVNI, ID: "7"}, &record.VNI{Network: "uuid"})
	return s
}

func TestHosts(t *testing.T) {
	list, err := Hosts(t.Context(), lab(t), "lab")
	if err != nil || len(list.Hosts) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	h1, h2 := list.Hosts[0], list.Hosts[1]
	if h1.State != "alive" || h1.Guests != 0 || h1.Leases != 2 || h1.Blocks != 1 || h1.MTU != 1500 || h2.State != "silent" || h2.Guests != 1 || h2.Leases != 0 {
		t.Errorf("%+v, %+v", h1, h2)
	}
	if _, err := Hosts(t.Context(), clustertest.New(), "lab"); err == nil || !strings.Contains(err.Error(), "cluster init") {
		t.Errorf("an empty store: %v", err)
	}
}

func TestWhere(t *testing.T) {
	s := lab(t)
	for what, want := range map[string]string{
		"WEB": "h2 here", "10.50.0.2": "h2 here", "52-54-00-00-00-01": "h2 here", "db": "h1 incoming", "old": "h1 ", "10.50.0.9": "", "52:54:00:00:00:09": "",
	} {
		found, err := Where(t.Context(), s, "lab", what)
		got := ""
		for _, g := range found {
			got += g.Host + " " + g.State
		}
		if err != nil || got != want {
			t.Errorf("where %s: %q, %v, want %q", what, got, err, want)
		}
	}
}

// insecure is a store that has no users.
type insecure struct{ *clustertest.Store }

func (insecure) AddHost(context.Context, string, string) error            { return nil }
func (insecure) LetDefine(context.Context, string, string, bool) error    { return nil }
func (insecure) RemoveHost(context.Context, string, string) (bool, error) { return false, nil }
func (insecure) EnableAuth(context.Context) error                         { return nil }

func TestForget(t *testing.T) {
	s := insecure{lab(t)}
	for _, tt := range []struct {
		host  string
		force bool
		keys  int
		kind  api.Kind
	}{
		{"h1", false, 0, api.InvalidState},
		{"h1", true, 7, ""},
		{"h2", false, 3, ""},
		{"h2", false, 0, api.NotFound},
		{"a/b", false, 0, api.Invalid},
	} {
		done, err := Forget(t.Context(), s, "lab", tt.host, tt.force, true)
		if kind, _ := api.KindOf(err); done.Keys != tt.keys || kind != tt.kind {
			t.Errorf("%s, force %v: %d keys, %v, want %d and %q", tt.host, tt.force, done.Keys, err, tt.keys, tt.kind)
		}
	}
}

// exported is what a file has after an export.
func exported(t *testing.T, s *clustertest.Store) (read api.ClusterKeys) {
	t.Helper()
	kept, err := Export(t.Context(), s, "lab")
	if err != nil || len(kept.Keys) != 12 || kept.UUID != "0b7c" || kept.Epoch != 1 {
		t.Fatalf("%+v, %v", kept, err)
	}
	text, err := json.MarshalIndent(kept, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	sameKeys(t, s, read)
	return read
}

// TestRestore puts keys of the administrator back into a store that lost them, and leaves
// those alone that it has.
func TestRestore(t *testing.T) {
	s := lab(t)
	read := exported(t, s)
	s.Wipe()
	done, err := Restore(t.Context(), s, "lab", read)
	if err != nil || done.Epoch != 2 || !slices.Equal(done.Waiting, []string{"h1", "h2"}) || len(done.Written) != 2 || len(done.Conflicts) != 0 {
		t.Errorf("restored: %+v, %v", done, err)
	}
	changed := record.Encode(&record.Network{XML: "<network/>", Generation: 9})
	if _, err := s.Txn(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "/vnetd/1/lab/n/apps", Value: changed}}}); err != nil {
		t.Fatal(err)
	}
	done, err = Restore(t.Context(), s, "lab", read)
	if err != nil || done.Epoch != 3 || len(done.Written) != 0 || len(done.Conflicts) != 1 || done.Conflicts[0].Has != string(changed) {
		t.Errorf("restored over a change: %+v, %v", done, err)
	}
	list, err := Hosts(t.Context(), s, "lab")
	if err != nil || !slices.Equal(list.Waiting, []string{"h1", "h2"}) {
		t.Errorf("then %+v, %v", list, err)
	}
}

// sameKeys holds that keys that were written to a file and read are those of the store.
func sameKeys(t *testing.T, s *clustertest.Store, read api.ClusterKeys) {
	t.Helper()
	l, err := s.List(t.Context(), record.Prefix("lab"), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range read.Keys {
		v, err := value(k)
		i := slices.IndexFunc(l.KVs, func(kv cluster.KV) bool { return kv.Key == k.Key })
		if err != nil || i < 0 || !bytes.Equal(v, l.KVs[i].Value) {
			t.Errorf("%s is read back as %s, %v", k.Key, v, err)
		}
	}
}

// TestRestoreOfAnother restores what is of another cluster.
func TestRestoreOfAnother(t *testing.T) {
	s := lab(t)
	read := exported(t, s)
	if _, err := Restore(t.Context(), s, "other", read); err == nil {
		t.Error("a file of another cluster passes")
	}
	read.UUID = "other"
	if _, err := Restore(t.Context(), s, "lab", read); err == nil || !strings.Contains(err.Error(), "has another cluster") {
		t.Errorf("a cluster of another UUID: %v", err)
	}
}
