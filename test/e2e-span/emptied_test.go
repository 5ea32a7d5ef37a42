package e2espan

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// epoch says in what a host writes how often the cluster was restored.
var epoch = regexp.MustCompile(`,"epoch":\d+`)

// keys are those of the store, and what they have, but for what says that a process runs and
// that the cluster was restored.
func (l *lab) keys() map[string]string {
	l.Helper()
	_, list, err := l.snapshot()
	if err != nil {
		l.Fatal(err)
	}
	all := make(map[string]string)
	for _, kv := range list.KVs {
		if k := strings.TrimPrefix(kv.Key, "/vnetd/1/lab/"); k != "meta" && !strings.HasSuffix(k, "/alive") {
			all[k] = epoch.ReplaceAllString(string(kv.Value), "")
		}
	}
	return all
}

// TestEmptied has etcd lose all that it has. No host believes it: no guest's place is
// forgotten, and none loses a packet. After a restore all keys are as they were.
func TestEmptied(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newLab(t)
		l.define("10.50.1.0", "10.50.1.255", 16)
		var guests []*guest
		var addresses []string
		for i := range l.hosts {
			g := l.guest(i, string(rune('a'+i)), client.PortOptions{Name: string(rune('a' + i))})
			guests, addresses = append(guests, g), append(addresses, g.lease())
		}
		for i, g := range guests {
			g.reaches(addresses[(i+1)%3])
			g.finds(guests[(i+1)%3].Name, addresses[(i+1)%3])
		}
		l.settled()
		before := l.keys()
		l.ctl(0, "", "cluster", "export", "/run/export.json")
		var watches []*removals
		var streams []*stream
		for i, g := range guests {
			watches = append(watches, l.watchRemovals(i))
			streams = append(streams, g.streams(addresses[(i+1)%3]))
		}
		for i := range l.etcd {
			l.killEtcd(i)
			l.hosts[i].Exec("sh", "-c", "rm -rf /var/lib/etcd/*")
		}
		for i := range l.etcd {
			l.startEtcd(i)
		}
		l.lostAll()
		l.found()
		l.lostAll()
		l.administrate("restore", "/run/export.json", "--yes")
		for i := range l.hosts {
			nstest.Eventually(l, limit, fmt.Sprintf("h%d restores", i+1), func() error {
				return l.hosts[i].Vnetctl(t.Context(), "", "cluster", "restore").Err()
			})
		}
		l.settled()
		nstest.Eventually(l, limit, "all keys are there again", func() error {
			if diff := cmp.Diff(before, l.keys()); diff != "" {
				return errors.New(diff)
			}
			return nil
		})
		for _, s := range streams {
			s.lost()
		}
		for i, w := range watches {
			removed := w.end()
			if t.Logf("h%d removed %d entries", i+1, len(removed)); len(removed) > 0 {
				t.Errorf("h%d removed entries: %v", i+1, removed)
			}
		}
		t.Logf("%d keys are as they were: %v", len(before), slices.Sorted(maps.Keys(before)))
		for i, g := range guests {
			if again := g.lease(); again != addresses[i] {
				t.Errorf("guest %s has %s, had %s", g.Name, again, addresses[i])
			}
		}
		l.check()
	})
}

// lostAll waits until all hosts say that the store lost what it had.
func (l *lab) lostAll() {
	l.Helper()
	for i := range l.hosts {
		nstest.Eventually(l, limit, fmt.Sprintf("h%d says that the store lost its data", i+1), func() error {
			if out := l.hosts[i].Vnetctl(l.Context(), "", "cluster", "status").Stdout; !strings.Contains(out, "lab") || !strings.Contains(out, "the store was ") && !strings.Contains(out, "etcd knows no host") {
				return errors.New(out)
			}
			return nil
		})
	}
}
