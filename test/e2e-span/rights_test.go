package e2espan

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/pkg/cluster/pki"
)

// TestRights has a host have certificates that are no good: each time it says what is wrong,
// its guests go on, and nothing of others changes.
func TestRights(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		a, c := l.guest(0, "a", client.PortOptions{Name: "a"}), l.guest(2, "c", client.PortOptions{Name: "c"})
		a4, c4 := a.lease(), c.lease()
		c.finds("a", a4)
		c.reaches(a4)
		l.settled()
		before := l.keys()
		foreign, err := pki.NewAuthority("elsewhere", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		ours, err := pki.Open(pki.Pair{Cert: read(t, l.dir+"/ca.crt"), Key: read(t, l.dir+"/ca.key")})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			name  string
			by    *pki.Authority
			cn    string
			lasts time.Duration
			want  string
		}{
			{"a certificate that ended", ours, "h3", -time.Minute, "ended"},
			{"a certificate of another authority", foreign, "h3", time.Hour, "does not take the certificate"},
			{"a certificate of nobody", ours, "h9", time.Hour, `"h3" is not the common name of the certificate`},
			{"a certificate of another host", ours, "h2", time.Hour, `"h3" is not the common name of the certificate`},
		} {
			pair, err := tt.by.Client(tt.cn, tt.lasts)
			if err != nil {
				t.Fatal(err)
			}
			l.hasCertificate(2, pair)
			l.hosts[2].KillVnetd()
			begin := time.Now()
			l.hosts[2].StartVnetd()
			nstest.Eventually(t, limit, tt.name, func() error {
				r := l.hosts[2].Vnetctl(t.Context(), "", "cluster", "status")
				if !strings.Contains(r.Stdout, tt.want) {
					return errors.New(r.Stdout + r.Stderr)
				}
				return nil
			})
			t.Logf("%s: said after %v", tt.name, time.Since(begin).Round(time.Millisecond))
			if again := c.lease(); again != c4 {
				t.Errorf("%s: guest c has %s, had %s", tt.name, again, c4)
			}
			c.reaches(a4)
			c.finds("a", a4)
		}
		l.install(2, filepath.Join(l.dir, "hosts", "h3"), "/etc/vnetd/cluster")
		l.hosts[2].KillVnetd()
		l.hosts[2].StartVnetd()
		l.settled()
		for key, value := range l.keys() {
			if had, there := before[key]; !strings.HasPrefix(key, "h/h3/") && (!there || had != value) {
				t.Errorf("%s is %s, was %s", key, value, had)
			}
		}
		l.mayNotWrite()
		l.check()
	})
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// hasCertificate gives a host one.
func (l *lab) hasCertificate(i int, pair pki.Pair) {
	l.Helper()
	dir := l.TempDir()
	for name, text := range map[string][]byte{"host.crt": pair.Cert, "host.key": pair.Key} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			l.Fatal(err)
		}
	}
	l.install(i, dir, "/etc/vnetd/cluster")
}

// mayNotWrite has a host try to write what is another's.
func (l *lab) mayNotWrite() {
	l.Helper()
	store := l.storeOf("h3")
	for _, key := range []string{"h/h1/p/apps/52:54:00:00:00:01", "h/h1/alive", "h/h1/l/apps/10.50.1.1", "meta"} {
		err := put(l, store, "/vnetd/1/lab/"+key)
		if l.Logf("h3 writes %s: %v", key, err); err == nil {
			l.Errorf("h3 writes %s", key)
		}
	}
	if err := put(l, store, "/vnetd/1/lab/h/h3/l/apps/10.50.200.1"); err != nil {
		l.Error(fmt.Errorf("h3 writes what is its own: %w", err))
	}
}
