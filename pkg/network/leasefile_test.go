package network_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/network"
)

// TestLeasesOfDnsmasq takes over what a dnsmasq leaves: its guests have their
// addresses here, and what is exported is what it had written.
func TestLeasesOfDnsmasq(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		for _, args := range []string{
			"link add one address 52:54:00:00:00:01 type bridge", "addr add 192.0.2.1/24 dev one",
			"addr add 2001:db8:5::1/64 dev one nodad", "link set one up",
		} {
			nstest.IP(t, args)
		}
		guest := nstest.Guest(t, "one", "guest", "52:54:00:00:00:42")
		file := filepath.Join(t.TempDir(), "dnsmasq.leases")
		written := serveByDnsmasq(t, guest, file)
		nstest.IP(t, "link del one")

		h := newHub(t, t.TempDir(), hubOptions{})
		xml := strings.Replace(natXML("one", "192.0.2"), "</network>", "<ip family='ipv6' address='2001:db8:5::1' prefix='64'>"+
			"<dhcp><range start='2001:db8:5::100' end='2001:db8:5::1ff'/></dhcp></ip></network>", 1)
		n := h.define(xml)
		server := regexp.MustCompile(`(?m)^duid .*$`) // ours is another one
		for _, state := range []string{"inactive", "active"} {
			if state == "active" {
				must(t, n.Start(t.Context()))
			}
			taken, refused, err := n.ImportLeases(t.Context(), written)
			if taken != 2 || len(refused) != 0 || err != nil {
				t.Fatalf("%s: %d leases were taken, %v refused (%v); the file is\n%s", state, taken, refused, err, written)
			}
			exported, err := n.ExportLeases()
			must(t, err)
			if diff := cmp.Diff(server.ReplaceAllString(written, "duid"), server.ReplaceAllString(exported, "duid")); diff != "" {
				t.Errorf("exported while %s (-dnsmasq +vnetd):\n%s", state, diff)
			}
		}
		_, refused, err := n.ImportLeases(t.Context(), "1 52:54:00:00:00:43 198.51.100.1 * *\n")
		if len(refused) != 1 || err != nil {
			t.Errorf("a lease of no subnet: refused %v (%v), want it", refused, err)
		}
		if _, _, err := n.ImportLeases(t.Context(), "no lease"); network.KindOf(err) != api.Invalid {
			t.Errorf("importing what is no lease file: %v", err)
		}
	})
}

// serveByDnsmasq has the guest get an address of each family from a dnsmasq on the
// bridge one, and returns the lease file that it leaves.
func serveByDnsmasq(t *testing.T, guest *nstest.NS, file string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "conf"), []byte("send host-name \"web\";\nsend fqdn.fqdn \"web\";\n"), 0o600))
	server := exec.CommandContext(t.Context(), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--pid-file=", "--no-resolv", "--no-hosts",
		"--port=0", "--interface=one", "--dhcp-range=192.0.2.100,192.0.2.150,1h", "--dhcp-range=2001:db8:5::100,2001:db8:5::1ff,64,1h",
		"--dhcp-leasefile="+file, "--dhcp-authoritative", "--no-ping")
	server.Stderr = os.Stderr
	must(t, server.Start())
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	for _, family := range []string{"-4", "-6"} {
		nstest.Eventually(t, 3*wait, "the guest has an address by DHCP"+family, func() error {
			out, err := guest.Command(t.Context(), "dhclient", family, "-1", "-v", "-cf", filepath.Join(dir, "conf"), "-sf", "/bin/true",
				"-lf", filepath.Join(dir, "leases"+family), "-pf", filepath.Join(dir, "pid"+family), "eth0").CombinedOutput()
			if err != nil {
				return errors.New(string(out))
			}
			return nil
		})
	}
	text, err := os.ReadFile(file)
	must(t, err)
	return string(text)
}
