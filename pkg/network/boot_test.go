package network_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
)

// TestNetworkBoot serves a boot file, what <dns> says, and lines for dnsmasq.
func TestNetworkBoot(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root := t.TempDir()
		must(t, os.Chmod(root, 0o755))
		must(t, os.WriteFile(filepath.Join(root, "boot.txt"), []byte("boot me\n"), 0o644))
		h := newHub(t, t.TempDir(), hubOptions{})
		xml := natXML("one", "192.0.2")
		for _, change := range []struct{ old, new string }{
			{"<network>", "<network xmlns:dnsmasq='http://libvirt.org/schemas/network/dnsmasq/1.0'>"},
			{"<dhcp>", "<tftp root='" + root + "'/><dhcp>"},
			{"</dhcp>", "<bootp file='boot.txt'/></dhcp>"},
			{"<ip ", "<domain name='vm.example'/><dns><txt name='note' value='hello'/>" +
				"<srv service='sip' protocol='udp' target='pbx.vm.example' port='5060'/>" +
				"<host ip='192.0.2.10'><hostname>printer</hostname></host></dns><ip "},
			{"</network>", "<dnsmasq:options><dnsmasq:option value='address=/wild.example/192.0.2.200'/>" +
				"<dnsmasq:option value='dhcp-option=42,192.0.2.123'/><dnsmasq:option value='dhcp-ttl=60'/></dnsmasq:options></network>"},
		} {
			xml = strings.Replace(xml, change.old, change.new, 1)
		}
		n := h.started(xml)
		guest := tenant(t, "one", "a")
		out := filepath.Join(t.TempDir(), "got")
		guest.Exec("busybox", "tftp", "-g", "-r", "boot.txt", "-l", out, subnet4+".1")
		if got, err := os.ReadFile(out); err != nil || string(got) != "boot me\n" {
			t.Errorf("the guest fetches %q (%v)", got, err)
		}
		for question, want := range map[string]string{
			"note.vm.example TXT":          `"hello"`,
			"_sip._udp.vm.example SRV":     "0 0 5060 pbx.vm.example.",
			"printer.vm.example A":         "192.0.2.10",
			"any.thing.wild.example A":     "192.0.2.200",
			"10.2.0.192.in-addr.arpa. PTR": "printer.vm.example.",
		} {
			args := append([]string{"+short", "@" + subnet4 + ".1"}, strings.Fields(question)...)
			if got := strings.TrimSpace(guest.Exec("dig", args...)); got != want {
				t.Errorf("%s is %q, want %q", question, got, want)
			}
		}
		answer := strings.Fields(guest.Exec("dig", "+noall", "+answer", "@"+subnet4+".1", "a.vm.example"))
		if want := []string{"a.vm.example.", "60", "IN", "A", guest.v4}; !slices.Equal(answer, want) {
			t.Errorf("the guest's own name is %q, want %q", answer, want)
		}
		if state := n.Info().State; state != api.Active {
			t.Errorf("the network is %s", state)
		}
	})
}
