package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// measures waits until the metrics of the first host have these lines.
func (l *clusterLab) measures(want ...string) {
	l.Helper()
	nstest.Eventually(l, spanLimit, fmt.Sprintf("metrics are %v", want), func() error {
		out := l.hosts[0].Exec("curl", "-sS", "--unix-socket", "/run/vnetd/metrics.sock", "http://vnetd/metrics")
		for _, line := range want {
			if !strings.Contains(out, "\nvnetd_cluster_"+line+"\n") {
				return fmt.Errorf("no %s in %s", line, out[max(0, strings.Index(out, "# HELP vnetd_cluster_")):])
			}
		}
		return nil
	})
}

// TestClusterMetrics has a host tell by metrics how it stands to its cluster: who else is
// there, how addresses are shared out, that a guest has moved, and that the store is away.
func TestClusterMetrics(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := newClusterLab(t, 2)
		l.hosts[0].KillVnetd()
		l.hosts[0].Exec("sh", "-c", `printf '[metrics]\nlisten = "unix:/run/vnetd/metrics.sock"\n' >>/etc/vnetd/vnetd.toml`)
		l.hosts[0].StartVnetd()
		l.define(clusterDocument)
		card := net.HardwareAddr{0x52, 0x54, 0, 0, 0, 0x0a}
		options := client.PortOptions{Name: "m", MAC: card, OwnerUUID: "11111111-2222-4333-8444-555555555555"}
		l.lease(l.guest(0, "m", options))
		l.measures(`connected{cluster="lab"} 1`, `mirror_backlog{cluster="lab"} 0`, `moves_total{cluster="lab"} 0`,
			`hosts{cluster="lab",state="self"} 1`, `hosts{cluster="lab",state="alive"} 1`, `hosts{cluster="lab",state="silent"} 0`,
			`blocks{cluster="lab",network="apps",state="mine"} 1`, `blocks{cluster="lab",network="apps",state="others"} 1`)
		nstest.Eventually(t, spanLimit, "the other host hears of the guest", func() error {
			if out := l.ctl(1, "", "where", card.String()); !strings.Contains(out, "h1") {
				return errors.New(out)
			}
			return nil
		})
		is, err := l.port(1, options)
		if err != nil {
			t.Fatal(err)
		}
		nstest.Machine(t, "m2", card.String(), is.Files[0])
		l.measures(`moves_total{cluster="lab"} 1`)
		l.hosts[1].KillVnetd()
		l.measures(`hosts{cluster="lab",state="alive"} 0`, `hosts{cluster="lab",state="silent"} 1`)
		l.etcd.Stop()
		l.measures(`connected{cluster="lab"} 0`, `blocks{cluster="lab",network="apps",state="mine"} 1`)
	})
}
