package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

const resolvedNetwork = `<network>
  <name>named</name>
  <bridge name='virbr7' stp='off' delay='0'/>
  <domain name='vm.example' localOnly='yes'/>
  <ip address='198.51.100.1' netmask='255.255.255.0'>
    <dhcp>
      <range start='198.51.100.100' end='198.51.100.110'/>
    </dhcp>
  </ip>
</network>
`

// The host whose resolver is systemd-resolved finds a guest by name, and its name
// by its address, without any set-up: from the guest's lease on, and when resolved
// has started again.
func TestResolvedFindsGuests(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		resolved := nstest.StartResolved(t)
		l.StartVnetd()
		xml := filepath.Join(t.TempDir(), "named.xml")
		if err := os.WriteFile(xml, []byte(resolvedNetwork), 0o644); err != nil {
			t.Fatal(err)
		}
		vnetctl(t, l, "create", xml)
		address := leaseOf(t, nstest.Guest(t, "virbr7", "g1", ""), "finder")
		found := func(when string) {
			t.Helper()
			nstest.Eventually(t, limit, "the guest is found "+when, func() error {
				return resolves(resolved, map[string]string{"finder.vm.example": address, address: "finder.vm.example"})
			})
		}
		found("once it has its lease")
		resolved.Stop()
		resolved.Start()
		found("after resolved has started again")
		for _, change := range [][]string{{"revert", "virbr7"}, {"domain", "virbr7", "other.example"}, {"dns", "virbr7", ""}} {
			if _, err := resolved.Resolvectl(change...); err != nil {
				t.Fatal(err)
			}
			nstest.Eventually(t, limit, "the registration is back", func() error {
				for setting, value := range map[string]string{"domain": "vm.example", "dns": "198.51.100.1"} {
					out, err := resolved.Resolvectl(setting, "virbr7")
					if err != nil {
						return err
					}
					if err := story.Contains("resolvectl "+setting, out, value); err != nil {
						return err
					}
				}
				return nil
			})
		}
		vnetctl(t, l, "stop", "named")
		nstest.Eventually(t, limit, "nothing being left of it in resolved", func() error {
			out, err := resolved.Resolvectl("domain")
			if err != nil {
				return err
			}
			if strings.Contains(out, "vm.example") {
				return fmt.Errorf("resolvectl domain says %q", out)
			}
			return nil
		})
	})
}

// resolves asks the host's resolver.
func resolves(r *nstest.Resolved, answers map[string]string) error {
	for question, answer := range answers {
		out, err := r.Resolvectl("query", question)
		if err != nil {
			return err
		}
		if err := story.Contains("resolvectl query "+question, out, answer); err != nil {
			return err
		}
	}
	return nil
}
