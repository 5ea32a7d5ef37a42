package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// directPools are networks without a bridge of their own, and what is done with each: a port
// comes, as its number and what its document has, or goes, as its number and "gone".
var directPools = []struct {
	network string
	steps   []string
}{
	{poolXML("vepa", "vepa", "lan0", "lan1"), []string{"1", "2", "3", "1 gone", "4"}},
	{poolXML("bridged", "bridge", "lan0", "lan1"), []string{"1 <virtualport type='openvswitch'/>", "2", "3 <bandwidth><inbound average='1000' floor='100'/></bandwidth>"}},
	{poolXML("private", "private", "lan0", "lan1"), []string{"1 <virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>", "2 <virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>", "3 <virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>", "4"}},
	{poolXML("through", "passthrough", "lan0", "lan1"), []string{"1 <vlan><tag id='5'/></vlan>", "2", "3", "2 gone", "4", "1 gone", "5"}},
	{"<network><name>none</name><forward mode='bridge'/></network>", []string{"1"}},
	{"<network><name>ovs</name><forward mode='bridge'/><bridge name='ovsbr0'/><virtualport type='openvswitch'/>" +
		"<portgroup name='web' default='yes'><vlan trunk='yes'><tag id='7'/><tag id='9' nativeMode='untagged'/></vlan><virtualport type='openvswitch'><parameters profileid='web'/></virtualport></portgroup></network>", []string{
		"1", "2 <virtualport type='openvswitch'><parameters interfaceid='00000000-0000-4000-8000-000000000077'/></virtualport>",
		"3 <virtualport type='802.1Qbh'><parameters profileid='p'/></virtualport>", "4 <virtualport><parameters profileid='other'/></virtualport>",
	}},
}

// random is what each daemon makes up by itself, or calls a fault of: what is wrong is said
// in the same words.
var random = regexp.MustCompile(`<uuid>[^<]*</uuid>|interfaceid='[^']*'|XML error: |invalid argument: |: [Ii]nvalid use of `)

// virsher runs virsh on a daemon.
type virsher func(input string, args ...string) (string, error)

// walk does the steps of a network and tells what the daemon says of each.
func (v virsher) walk(name string, steps []string) string {
	var told strings.Builder
	tell := func(step string, out string, err error) {
		fmt.Fprintf(&told, "%s: %v\n%s\n", step, err != nil, random.ReplaceAllString(strings.TrimSpace(out), "RANDOM"))
	}
	for _, step := range steps {
		nth, rest, _ := strings.Cut(step, " ")
		uuid := "77777777-0000-4000-8000-00000000000" + nth
		if rest == "gone" {
			out, err := v("", "net-port-delete", name, uuid)
			tell(step, out, err)
			continue
		}
		doc := fmt.Sprintf("<networkport><uuid>%s</uuid><owner><name>vm%s</name><uuid>%s</uuid></owner><mac address='52:54:00:00:55:0%s'/>%s</networkport>", uuid, nth, uuid, nth, rest)
		out, err := v(doc, "net-port-create", name, "/dev/stdin")
		tell(step, out, err)
		out, err = v("", "net-port-dumpxml", name, uuid)
		tell("the port of "+step, out, err)
	}
	out, err := v("", "net-dumpxml", name)
	tell("the network", out, err)
	return told.String()
}

// walkAll is walk of all networks.
func (v virsher) walkAll(t *testing.T) map[string]string {
	t.Helper()
	told := make(map[string]string)
	for _, p := range directPools {
		name := regexp.MustCompile(`<name>(.*)</name>`).FindStringSubmatch(p.network)[1]
		for _, args := range [][]string{{"net-define", "/dev/stdin"}, {"net-start", name}} {
			if out, err := v(p.network, args...); err != nil {
				t.Fatalf("%s: %v: %s", name, err, out)
			}
		}
		told[name] = v.walk(name, p.steps)
		_, _ = v("", "net-destroy", name)
		_, _ = v("", "net-undefine", name)
	}
	return told
}

// TestDirectPoolsAsLibvirt does the same with networks without a bridge of libvirt's own
// network driver and of vnetd's: what they say is the same, but for what is made up.
func TestDirectPoolsAsLibvirt(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		nstest.IP(t, "link add ovsbr0 type bridge")
		for i := range 2 {
			nstest.IP(t, fmt.Sprintf("link add lan%d type veth peer name peer%d", i, i))
		}
		libvirtd := l.StartLibvirtd()
		want := virsher(libvirtd.Virsh).walkAll(t)
		if err := os.MkdirAll(filepath.Dir(libvirtSocket), 0o755); err != nil {
			t.Fatal(err)
		}
		startForLibvirt(t, l)
		got := virsher(func(input string, args ...string) (string, error) {
			cmd := exec.Command("virsh", append([]string{"-q", "-c", "network:///system?socket=" + libvirtSocket}, args...)...)
			cmd.Env = append(os.Environ(), "LC_ALL=C")
			cmd.Stdin = strings.NewReader(input)
			out, err := cmd.CombinedOutput()
			return string(out), err
		}).walkAll(t)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("libvirtd's and vnetd's (-want +got):\n%s", diff)
		}
	})
}
