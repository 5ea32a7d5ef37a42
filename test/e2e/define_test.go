package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// Definitions with one fault each, and words by which the message names it.
var faults = map[string]struct {
	old, new string // what is replaced in nat-network.xml
	code     int
	words    []string
}{
	"unknown forward mode":     {"mode='nat'", "mode='teleport'", 1, []string{"forward", "teleport"}},
	"range outside the subnet": {"end='192.168.10.254'", "end='192.168.11.254'", 1, []string{"range", "192.168.11.254"}},
	"bridge name too long":     {"virbr-nat", "virbr-0123456789", 1, []string{"bridge", "virbr-0123456789"}},
	"truncated file":           {"</ip>\n</network>\n", "", 1, []string{"line 10", "<ip>"}},
	"subnet of another":        {"192.168.10.", "192.168.122.", 5, []string{"192.168.122.0/24", "default"}},
}

func TestBrokenDefinitions(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		startNetwork(t, l, "default")
		list, files, before := vnetctl(t, l, "list"), defined(t), state(t)
		good, err := os.ReadFile(testdata(t, story.Network+".xml"))
		if err != nil {
			t.Fatal(err)
		}
		for name, fault := range faults {
			bad := strings.ReplaceAll(strings.ReplaceAll(string(good), fault.old, fault.new), story.Network, "bad")
			if bad == string(good) {
				t.Fatalf("%s: nat-network.xml has no %q", name, fault.old)
			}
			for _, verb := range []string{"define", "create"} {
				checkRefused(t, l, verb, bad, fault.code, fault.words)
			}
		}
		same(t, "vnetctl list", list, vnetctl(t, l, "list"))
		same(t, "definitions", strings.Join(files, "\n"), strings.Join(defined(t), "\n"))
		same(t, "links and rules", before, state(t))
	})
}

// checkRefused gives vnetctl a definition and expects a message with the words.
func checkRefused(t *testing.T, l *nstest.Lab, verb, xml string, code int, words []string) {
	t.Helper()
	r := l.VnetctlInput(t.Context(), xml, verb, "-")
	if r.Code != code {
		t.Errorf("vnetctl %s - ended with %+v, want code %d; given:\n%s", verb, r, code, xml)
	}
	if err := story.Contains("vnetctl "+verb, r.Stderr, words...); err != nil {
		t.Error(err)
	}
}

// The example networks of libvirt's users work as they stand.
func TestExampleNetworks(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		// bridged-network is for a bridge that the administrator made.
		nstest.IP(t, "link add br0 type bridge")
		nstest.IP(t, "link set br0 up")
		examples := []struct{ name, bridge, subnet string }{
			{"default", "virbr0", "192.168.122."},
			{"nat-network", "virbr-nat", "192.168.10."},
			{"routed-network", "virbr-routed", "192.168.20."},
			{"isolated-network", "virbr-iso", "192.168.30."},
			{"bridged-network", "br0", ""},
		}
		for _, e := range examples {
			startNetwork(t, l, e.name)
			if n := networks(t)[e.name]; !n.Active || n.Bridge != e.bridge || n.State != "active" {
				t.Errorf("%s after its start: %+v", e.name, n)
			}
		}
		for _, e := range examples[:4] {
			guest := nstest.Guest(t, e.bridge, "g-"+e.bridge[5:], "")
			if got := leaseOf(t, guest, "guest"); !strings.HasPrefix(got, e.subnet) {
				t.Errorf("a guest of %s has the address %q", e.name, got)
			}
		}
		for _, e := range examples {
			vnetctl(t, l, "stop", e.name)
		}
		if links := nstest.IP(t, "-o link show type bridge"); !strings.Contains(links, " br0:") || strings.Contains(links, "virbr") {
			t.Errorf("after all were stopped the bridges are:\n%s", links)
		}
	})
}

// What would cut guests off waits for the next start, is told, and is still waiting
// when vnetd was restarted; a stranger's document changes nothing.
func TestDefineAnew(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		guest := nstest.Guest(t, story.Bridge, "guest", "")
		leaseOf(t, guest, "guest")
		answered := func(step string) {
			t.Helper()
			nstest.Eventually(t, limit, "the guest is answered after "+step, func() error {
				return guest.Command(t.Context(), "ping", "-c1", "-W1", "192.168.10.1").Run()
			})
		}
		own := vnetctl(t, l, "cat", story.Network, "--inactive")
		moved := strings.ReplaceAll(strings.Replace(own, "<ip ", "<domain name='vm.example'/><ip ", 1), "192.168.10.", "192.168.77.")
		define := func(code int, args []string, xml string, says ...string) {
			t.Helper()
			r := l.VnetctlInput(t.Context(), xml, append([]string{"define", "-"}, args...)...)
			if r.Code != code {
				t.Errorf("vnetctl define - %v: %+v, want code %d", args, r, code)
			}
			if err := story.Contains("vnetctl define", r.Stdout+r.Stderr, says...); err != nil {
				t.Error(err)
			}
		}
		quoted := "network \"" + story.Network + "\" "
		define(0, nil, own, quoted+"unchanged")
		define(5, []string{"--new"}, own, "already exists")
		before := state(t)
		define(0, nil, moved, quoted+"changed", "<domain name='vm.example'/> is new", "pending", "192.168.77.1")
		same(t, "links and rules", before, state(t))
		answered("define")
		stop(t, v)
		l.StartVnetd()
		if err := story.Contains("vnetctl status", vnetctl(t, l, "status", story.Network), "changes at the next start", "192.168.77.1", "domain vm.example"); err != nil {
			t.Error(err)
		}
		answered("a restart of vnetd")
		define(0, []string{"--now"}, moved, quoted+"applied", "192.168.77.1")
		define(0, []string{"--now"}, moved, quoted+"unchanged")
		if got := nstest.IP(t, "addr show "+story.Bridge); !strings.Contains(got, "192.168.77.1/") || strings.Contains(got, "192.168.10.1/") {
			t.Errorf("after --now the bridge is\n%s", got)
		}
		if got := vnetctl(t, l, "status", story.Network); strings.Contains(got, "next start") {
			t.Errorf("after --now the status is\n%s", got)
		}
	})
}

// A definition survives as a file in libvirt's form.
func TestDefinitionIsAFile(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		l.StartVnetd()
		vnetctl(t, l, "define", testdata(t, story.Network+".xml"))
		text, err := os.ReadFile(filepath.Join("/etc/vnetd/networks", story.Network+".xml"))
		if err != nil {
			t.Fatal(err)
		}
		if err := story.Contains("the definition", string(text), "<name>"+story.Network+"</name>", "<uuid>", "192.168.10.254"); err != nil {
			t.Error(err)
		}
	})
}
