// Package admin is what an administrator does with a cluster: certificates in a directory,
// who may do what in the store, and what the store has of hosts, kept and put back.
package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/internal/ether"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/cluster/pki"
	"github.com/vnetd/vnetd/pkg/cluster/record"
)

// How long certificates last: all as long as who signs them. One that ends within renew is
// made anew by who makes it a second time.
const (
	lasts = 10 * 365 * 24 * time.Hour
	renew = 30 * 24 * time.Hour
)

// The names of pairs of files, .crt and .key, in a directory and below it.
const (
	authority = "ca"
	operator  = "admin"
	server    = "server" // of etcd
	host      = "host"
)

// Directory is where an administrator keeps the authority of one cluster, and what it
// signed. Nothing in it is ever overwritten but certificates that end soon, and texts that
// are made of them.
type Directory string

// path is a file in the directory.
func (d Directory) path(names ...string) string {
	return filepath.Join(append([]string{string(d)}, names...)...)
}

// commonName is that of a cluster's authority.
func commonName(cluster string) string { return "vnetd cluster " + cluster }

// maker makes files, and keeps which.
type maker struct {
	dir  Directory
	ca   *pki.Authority
	made []string
}

// open reads the authority of a cluster, and makes it if there is none and it may.
func (d Directory) open(cluster string, may bool) (*maker, error) {
	m := &maker{dir: d}
	cert, err := os.ReadFile(d.path(authority + ".crt"))
	key, err2 := os.ReadFile(d.path(authority + ".key"))
	switch {
	case err == nil && err2 == nil:
		m.ca, err = pki.Open(pki.Pair{Cert: cert, Key: key})
		if err == nil {
			err = belongs(cert, cluster)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d, err)
		}
		return m, nil
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist) && may:
		if m.ca, err = pki.NewAuthority(commonName(cluster), lasts); err != nil {
			return nil, err
		}
		return m, m.writePair(m.ca.Pair, false, authority)
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err2, fs.ErrNotExist):
		return nil, api.Errorf(api.NotFound, "%s has no authority: it is made by \"vnetctl cluster init %s\"", d, cluster)
	}
	return nil, fmt.Errorf("the authority of the cluster: %w", errors.Join(err, err2))
}

// belongs reports an authority that is of another cluster.
func belongs(cert []byte, cluster string) error {
	c, err := parse(cert)
	if err == nil && c.Subject.CommonName != commonName(cluster) {
		err = api.Errorf(api.Conflict, "the authority there is %q, not that of cluster %q: use another --dir", c.Subject.CommonName, cluster)
	}
	return err
}

func parse(text []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("it has no certificate in PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// uuid is a UUID of version 8 (RFC 9562 section 5.8) made of the authority: one directory
// makes one cluster, however often.
func (m *maker) uuid() string {
	sum := sha256.Sum256(m.ca.Pair.Cert)
	u := ether.UUID(sum[:16])
	u[6], u[8] = u[6]&0x0f|0x80, u[8]&0x3f|0x80
	return u.String()
}

// pair makes a certificate and its key, unless they are there and last.
func (m *maker) pair(sign func() (pki.Pair, error), names ...string) error {
	base := m.dir.path(names...)
	text, err := os.ReadFile(base + ".crt")
	switch {
	case err == nil:
		c, err := parse(text)
		if err == nil {
			err = m.signed(c)
		}
		if err != nil {
			return fmt.Errorf("%s.crt: %w", base, err)
		}
		if _, err := os.Stat(base + ".key"); err != nil || time.Until(c.NotAfter) > renew {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	p, err := sign()
	if err != nil {
		return err
	}
	return m.writePair(p, true, names...)
}

// signed reports a certificate that another authority signed.
func (m *maker) signed(c *x509.Certificate) error {
	ca, err := parse(m.ca.Pair.Cert)
	if err != nil {
		return err
	}
	if c.CheckSignatureFrom(ca) != nil {
		return fmt.Errorf("was not signed by the authority in %s: remove it to have it made anew", m.dir)
	}
	return nil
}

// writePair writes a key, and then its certificate: who finds that finds both.
func (m *maker) writePair(p pki.Pair, replace bool, names ...string) error {
	base := m.dir.path(names...)
	return errors.Join(m.write(base+".key", p.Key, 0o600, replace), m.write(base+".crt", p.Cert, 0o644, replace))
}

// text writes a file that can be made again at any time, if it is not so yet.
func (m *maker) text(content []byte, mode fs.FileMode, names ...string) error {
	path := m.dir.path(names...)
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	}
	return m.write(path, content, mode, true)
}

// write makes a file whole or not at all.
func (m *maker) write(path string, content []byte, mode fs.FileMode, replace bool) (err error) {
	err = errors.Join(os.MkdirAll(string(m.dir), 0o755), os.MkdirAll(filepath.Dir(path), 0o700)) // a host's own certificate is in the first
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // renamed, it is gone
	_, err = f.Write(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if replace {
		err = os.Rename(f.Name(), path)
	} else {
		err = os.Link(f.Name(), path) // fails where there is one
	}
	if err == nil {
		m.made = append(m.made, path)
	}
	return err
}

// Servers are the servers of etcd at endpoints, and where their files are.
func (d Directory) Servers(endpoints []string) ([]api.EtcdServer, error) {
	var all []api.EtcdServer
	for _, text := range endpoints {
		u, err := url.Parse(text)
		if err != nil {
			return nil, err
		}
		s := api.EtcdServer{Endpoint: text, Host: u.Hostname(), Dir: d.path("etcd", u.Hostname())}
		if slices.ContainsFunc(all, func(o api.EtcdServer) bool { return o.Host == s.Host }) {
			s.Dir = d.path("etcd", u.Hostname()+"-"+u.Port())
		}
		all = append(all, s)
	}
	return all, nil
}

// peerURL is where the other servers reach one: at the port behind that of clients, as
// etcd has it when nothing else is said.
func peerURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil || port == 0 || port == 65535 {
		return "", fmt.Errorf("%q: want a port from 1 to 65534", endpoint)
	}
	return "https://" + net.JoinHostPort(u.Hostname(), strconv.FormatUint(port+1, 10)), nil
}

// etcdFiles is where etcd's files are on its own machine.
const etcdFiles = "/etc/etcd"

// environment is what etcd has to be started with: variables, as Debian's service reads
// them from /etc/default/etcd.
func environment(cluster string, all []api.EtcdServer, self int) ([]byte, error) {
	var members []string
	for _, s := range all {
		peer, err := peerURL(s.Endpoint)
		if err != nil {
			return nil, err
		}
		members = append(members, filepath.Base(s.Dir)+"="+peer)
	}
	s := all[self]
	name, peer, _ := strings.Cut(members[self], "=")
	listen := func(at string) (string, error) {
		u, err := url.Parse(at)
		if err != nil {
			return "", err
		}
		if _, err := netip.ParseAddr(u.Hostname()); err != nil { // etcd listens at addresses alone
			u.Host = net.JoinHostPort("0.0.0.0", u.Port())
		}
		return u.String(), nil
	}
	client, err := listen(s.Endpoint)
	if err != nil {
		return nil, err
	}
	peers, err := listen(peer)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# etcd at %s, for vnetd's cluster %s\n", s.Endpoint, cluster)
	for _, v := range [][2]string{
		{"NAME", name},
		{"DATA_DIR", "/var/lib/etcd/vnetd-" + cluster}, // not that of an etcd that ran before
		{"LISTEN_CLIENT_URLS", client},
		{"ADVERTISE_CLIENT_URLS", s.Endpoint},
		{"CERT_FILE", etcdFiles + "/server.crt"},
		{"KEY_FILE", etcdFiles + "/server.key"},
		{"TRUSTED_CA_FILE", etcdFiles + "/ca.crt"},
		{"CLIENT_CERT_AUTH", "true"},
		{"LISTEN_PEER_URLS", peers},
		{"INITIAL_ADVERTISE_PEER_URLS", peer},
		{"PEER_CERT_FILE", etcdFiles + "/server.crt"},
		{"PEER_KEY_FILE", etcdFiles + "/server.key"},
		{"PEER_TRUSTED_CA_FILE", etcdFiles + "/ca.crt"},
		{"PEER_CLIENT_CERT_AUTH", "true"},
		{"INITIAL_CLUSTER", strings.Join(members, ",")},
		{"INITIAL_CLUSTER_TOKEN", "vnetd-" + cluster},
		{"INITIAL_CLUSTER_STATE", "new"},
		{"AUTO_COMPACTION_RETENTION", "1"},
		{"PRE_VOTE", "true"}, // a server that was cut off and comes back ends no leader's term (the default from 3.5 on)
	} {
		fmt.Fprintf(&b, "ETCD_%s=%s\n", v[0], v[1])
	}
	return b.Bytes(), nil
}

// etcd makes what the servers of etcd need.
func (m *maker) etcd(cluster string, all []api.EtcdServer) error {
	for i, s := range all {
		dir := []string{"etcd", filepath.Base(s.Dir)}
		text, err := environment(cluster, all, i)
		if err != nil {
			return err
		}
		err = errors.Join(
			// The blank keeps the name from being that of a host, for it is a client's as well.
			m.pair(func() (pki.Pair, error) { return m.ca.Server("etcd "+s.Host, []string{s.Host}, lasts) }, append(dir, server)...),
			m.text(m.ca.Pair.Cert, 0o644, append(dir, authority+".crt")...),
			m.text(text, 0o644, append(dir, "etcd.env")...),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// client makes the certificate of who calls etcd.
func (m *maker) client(name string, names ...string) error {
	return m.pair(func() (pki.Pair, error) { return m.ca.Client(name, lasts) }, names...)
}

// CheckName reports a name that a cluster can't have.
func CheckName(cluster string) error {
	if record.CheckHost(cluster) != nil {
		return api.Errorf(api.Invalid, "%q is no name of a cluster: want up to 64 letters, digits, '.', '-' and '_'", cluster)
	}
	return nil
}
