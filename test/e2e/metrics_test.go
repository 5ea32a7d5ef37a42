package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// TestScrape switches the metrics on and asks for them as Prometheus does.
func TestScrape(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		const config = "/run/vnetd.toml"
		if err := os.WriteFile(config, []byte("[metrics]\nlisten = \"127.0.0.1:9753\"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		nstest.IP(t, "link set lo up")
		v := l.StartVnetd("--config", config)
		startNetwork(t, l, story.Network)
		guest := nstest.Guest(t, story.Bridge, "g1", "")
		leaseOf(t, guest, story.Host)
		nstest.Eventually(t, limit, "the lease is counted", func() error {
			out, err := exec.Command("curl", "-sSf", "http://127.0.0.1:9753/metrics").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			for _, line := range []string{
				`vnetd_network_up{network="` + story.Network + `"} 1`,
				`vnetd_dhcp_messages_total{network="` + story.Network + `",family="ipv4",type="ack"} 1`,
				`vnetd_firewall_conflict{kind="drop-rule"} 0`,
			} {
				if !strings.Contains(string(out), "\n"+line+"\n") {
					return fmt.Errorf("no %s in\n%s", line, out)
				}
			}
			return nil
		})
		if line := `msg="lease bound" network=` + story.Network + " ip=" + story.Address; strings.Count(v.Log(), line) != 1 {
			t.Errorf("not one line %s in\n%s", line, v.Log())
		}
		stop(t, v)
		l.StartVnetd() // without
		if out, err := exec.Command("curl", "-sS", "http://127.0.0.1:9753/metrics").CombinedOutput(); err == nil {
			t.Errorf("metrics are served though nobody asked for them: %s", out)
		}
	})
}

// TestPlanAndLog plans a network, sees that it is not there, and follows its start
// in the log at a level that was set live.
func TestPlanAndLog(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		before := state(t)
		var plan struct {
			Conflicts []string
			Addresses []struct{ Address netip.Prefix }
			Rules     []struct{ Chain, Args string }
		}
		if err := json.Unmarshal([]byte(vnetctl(t, l, "plan", testdata(t, story.Network+".xml"), "--json")), &plan); err != nil {
			t.Fatal(err)
		}
		same(t, "links and rules after a plan", before, state(t))
		vnetctl(t, l, "log-level", "error")
		startNetwork(t, l, story.Network)
		made := rules(t, "iptables-save")
		for _, r := range plan.Rules {
			if !strings.Contains(made, "-A "+r.Chain+" "+r.Args+"\n") {
				t.Errorf("the rule %s %s was planned but is not in\n%s", r.Chain, r.Args, made)
			}
		}
		if len(plan.Conflicts) > 0 || len(plan.Addresses) != 1 || len(plan.Rules) < 10 {
			t.Errorf("plan %+v", plan)
		}
		if r := l.Vnetctl(t.Context(), "plan", testdata(t, "isolated-network.xml")); r.Code != 0 {
			t.Errorf("another network: %+v", r)
		}
		if strings.Contains(v.Log(), `"network started"`) {
			t.Error("the start was logged at level error")
		}
		vnetctl(t, l, "log-level", "info")
		vnetctl(t, l, "stop", story.Network)
		if !strings.Contains(v.Log(), `msg="network stopped" network=`+story.Network) {
			t.Errorf("the stop was not logged at level info:\n%s", v.Log())
		}
		guestless := l.Vnetctl(t.Context(), "plan", "-")
		if guestless.Code != 1 {
			t.Errorf("no document: %+v", guestless)
		}
	})
}
