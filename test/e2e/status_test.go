package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// diagnosis is what doctor --json says.
type diagnosis struct {
	Vnetd    *string
	Findings []finding
}

type finding struct{ Check, Severity, Evidence, Remedy string }

// doctor runs doctor --json and returns what it found and its exit code.
func doctor(t *testing.T, l *nstest.Lab) (d diagnosis, code int) {
	t.Helper()
	r := l.Vnetctl(t.Context(), "doctor", "--json")
	if err := json.Unmarshal([]byte(r.Stdout), &d); err != nil {
		t.Fatalf("doctor: %v: %+v", err, r)
	}
	return d, r.Code
}

// TestDoctorHeals breaks the firewall in several ways, and does as doctor says until
// nothing is left to do.
func TestDoctorHeals(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		for _, damage := range []struct{ command, kind string }{
			{"iptables -I FORWARD -i " + story.Bridge + " -j DROP", "drop-rule"},
			{"iptables -I INPUT -i " + story.Bridge + " -j DROP", "drop-rule"},
			{"nft add table inet mine; nft add chain inet mine fo '{ type filter hook forward priority 10; policy drop; }'", "drop-policy"},
			{"sysctl -qw net.ipv4.ip_forward=0", "forwarding-off"},
		} {
			nstest.Exec(t, "sh", "-ec", damage.command)
			nstest.Eventually(t, limit, "doctor finds and heals "+damage.command, func() error {
				d, code := doctor(t, l)
				i := slices.IndexFunc(d.Findings, func(f finding) bool { return f.Check == damage.kind && f.Severity == "error" })
				if i < 0 || code != 1 {
					return fmt.Errorf("exit code %d, findings %+v", code, d.Findings)
				}
				if shown := vnetctl(t, l, "status"); !strings.Contains(shown, "# "+d.Findings[i].Remedy) || strings.Contains(shown, "\x1b") {
					t.Errorf("status shows\n%s", shown)
				}
				if shown := vnetctl(t, l, "status", story.Network); !strings.Contains(shown, "# "+d.Findings[i].Remedy) {
					t.Errorf("status of the network shows\n%s", shown)
				}
				nstest.Exec(t, "sh", "-ec", d.Findings[i].Remedy)
				return nil
			})
			nstest.Eventually(t, limit, "healed of "+damage.command, func() error {
				d, _ := doctor(t, l)
				for _, f := range d.Findings {
					if f.Severity == "error" {
						return fmt.Errorf("%+v", f)
					}
				}
				return nil
			})
		}
		v.Kill()
		nstest.Eventually(t, limit, "doctor without vnetd", func() error {
			if d, code := doctor(t, l); d.Vnetd != nil || code != 1 || d.Findings[0].Check != "daemon" {
				return errors.New("it still answers")
			}
			return nil
		})
	})
}
