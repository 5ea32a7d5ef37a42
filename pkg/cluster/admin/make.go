package admin

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// Store is a store of which this program is the administrator.
type Store interface {
	cluster.Store

	// AddHost and RemoveHost change who may do what. AddHost does no harm a second time;
	// RemoveHost reports whether there was such a user.
	AddHost(ctx context.Context, cluster, host string) error
	LetDefine(ctx context.Context, cluster, host string, may bool) error
	RemoveHost(ctx context.Context, cluster, host string) (bool, error)

	// EnableAuth has the store ask everybody who they are.
	EnableAuth(ctx context.Context) error
}

// superuser is the user of etcd that may do everything, which the administrator is.
const superuser = "root"

// SettingsFile is where Certificates writes how the administrator reaches the store.
const SettingsFile = "admin.toml"

// Certificates makes the authority of a cluster, and the certificates of its administrator
// and of etcd's servers; what is there stays.
func (d Directory) Certificates(name string, endpoints []string) (api.ClusterMade, error) {
	made := api.ClusterMade{Cluster: name, Dir: string(d)}
	servers, err := d.Servers(endpoints)
	if err != nil {
		return made, err
	}
	made.Servers = servers
	m, err := d.open(name, true)
	if err != nil {
		return made, err
	}
	text := section(name, endpoints, d.path(authority+".crt"), d.path(operator+".crt"), d.path(operator+".key"))
	err = errors.Join(m.client(superuser, operator), m.etcd(name, servers), m.text([]byte(text), 0o644, SettingsFile))
	made.Files = m.made
	return made, err
}

// section is the section of a cluster in a file of vnetd's; of an empty certificate
// nothing is said.
func section(name string, endpoints []string, ca, cert, key string) string {
	quoted := make([]string, len(endpoints))
	for i, e := range endpoints {
		quoted[i] = fmt.Sprintf("%q", e)
	}
	// A bare key of TOML has no dot.
	text := fmt.Sprintf("[cluster.%q]\nendpoints = [%s]\n", name, strings.Join(quoted, ", "))
	if !strings.Contains(name, ".") {
		text = strings.Replace(text, fmt.Sprintf("%q", name), name, 1)
	}
	if cert == "" {
		return text + "insecure = true\n"
	}
	return text + fmt.Sprintf("ca = %q\ncert = %q\nkey = %q\n", ca, cert, key)
}

// UUID is that of the cluster whose authority is in the directory.
func (d Directory) UUID(name string) (string, error) {
	m, err := d.open(name, false)
	if err != nil {
		return "", err
	}
	return m.uuid(), nil
}

// Init makes a cluster in a store, and has that ask everybody who they are where it is
// secure. It returns the UUID, and whether the cluster was not there; what is there stays.
func Init(ctx context.Context, s Store, name, uuid string, secure bool) (has string, created bool, err error) {
	meta, err := readMeta(ctx, s, name)
	if err != nil {
		return "", false, err
	}
	if secure {
		if err := s.EnableAuth(ctx); err != nil {
			return "", false, err
		}
	}
	switch {
	case meta != nil && secure && meta.UUID != uuid:
		return "", false, api.Errorf(api.Conflict, "the store has another cluster %q: its UUID is %s, that of this directory's is %s", name, meta.UUID, uuid)
	case meta != nil:
		return meta.UUID, false, nil
	case uuid == "":
		uuid = ether.RandomUUID()
	}
	return uuid, true, cluster.Init(ctx, s, name, uuid)
}

// readMeta reads what a cluster is, nil if there is none.
func readMeta(ctx context.Context, s cluster.Store, name string) (*record.Meta, error) {
	l, err := s.List(ctx, record.Key{Kind: record.KindMeta}.Path(name), 0)
	if err != nil {
		return nil, err
	}
	return cluster.Read(name, l).Meta(), nil
}

// snapshot reads a cluster that must be there.
func snapshot(ctx context.Context, s cluster.Store, name string) (cluster.Snapshot, cluster.Listing, error) {
	l, err := s.List(ctx, record.Prefix(name), 0)
	if err != nil {
		return cluster.Snapshot{}, l, err
	}
	sn := cluster.Read(name, l)
	if sn.Meta() == nil {
		return sn, l, api.Errorf(api.NotFound, "the store has no cluster %q: it is made by \"vnetctl cluster init\", or, where the store lost it, again by \"vnetctl cluster restore\"", name)
	}
	return sn, l, nil
}

// hostFiles is where a host's certificates are on the host.
const hostFiles = "/etc/vnetd/cluster"

// HostKit makes what a host needs to belong to a cluster: its certificate, and the section
// of its vnetd.toml. What is there stays. Without certificates nothing is written.
func (d Directory) HostKit(name, h string, underlay netip.Addr, endpoints []string, secure bool) (api.ClusterHostKit, error) {
	kit := api.ClusterHostKit{Cluster: name, Host: h}
	self := fmt.Sprintf("host = %q\nunderlay = %q\n", h, underlay)
	if !secure {
		kit.Config = section(name, endpoints, "", "", "") + self
		return kit, nil
	}
	kit.Config = section(name, endpoints, hostFiles+"/ca.crt", hostFiles+"/host.crt", hostFiles+"/host.key") + self
	m, err := d.open(name, false)
	if err != nil {
		return kit, err
	}
	kit.Dir = d.path("hosts", h)
	err = errors.Join(
		m.client(h, "hosts", h, host),
		m.text(m.ca.Pair.Cert, 0o644, "hosts", h, authority+".crt"),
		m.text([]byte(kit.Config), 0o644, "hosts", h, "vnetd.toml"),
	)
	kit.Files = m.made
	return kit, err
}

// CheckHost reports a name or an underlay address that a host of a cluster can't have.
func CheckHost(h string, underlay netip.Addr) error {
	if err := record.CheckHost(h); err != nil {
		return &api.Error{Kind: api.Invalid, Err: err}
	}
	if h == superuser {
		return api.Errorf(api.Invalid, "no host can be called %q: that is the user of etcd that may do everything", h)
	}
	if !underlay.IsValid() || underlay.Zone() != "" || underlay.IsMulticast() || underlay.IsUnspecified() || underlay.IsLoopback() {
		return api.Errorf(api.Invalid, "%q is no address at which a tunnel can end: want one of the host's, such as 10.0.0.1", underlay)
	}
	return nil
}

// HostOf is the host that a certificate is of, "" if that can't be read or is the
// administrator's.
func HostOf(cert string) string {
	text, err := os.ReadFile(cert)
	if err != nil {
		return ""
	}
	c, err := parse(text)
	if err != nil || c.Subject.CommonName == superuser {
		return ""
	}
	return c.Subject.CommonName
}
