package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// program is another one that has rules of its own, as they are recorded.
type program struct {
	name, file      string
	backend, reason string   // that auto chooses
	flush           []string // commands by which rules go before the program makes them anew
	container       bool     // it has a bridge whose guests it lets out
}

// programs are those that are met beside vnetd most often.
var programs = []program{
	{
		name: "Docker with iptables", file: "docker-29.iptables", container: true,
		backend: "iptables", reason: "only rules in iptables stand before iptables -P FORWARD DROP",
		flush: []string{"iptables -F", "iptables -t nat -F", "iptables -t raw -F"},
	}, {
		name: "Docker with nftables", file: "docker.nft", container: true,
		backend: "nftables", reason: "nothing in iptables cuts guests off",
		flush: []string{"nft flush ruleset"},
	}, {
		name: "ufw", file: "ufw.iptables",
		backend: "iptables", reason: "only rules in iptables stand before iptables ",
		flush: []string{"iptables -P INPUT ACCEPT", "iptables -P FORWARD ACCEPT", "iptables -F"},
	}, {
		name: "firewalld", file: "firewalld-zone.nft",
		backend: "nftables", reason: "nothing in iptables cuts guests off",
		flush: []string{"nft delete table inet firewalld"},
	},
}

// load makes the program's rules.
func (p *program) load(t *testing.T) {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "pkg", "firewall", "diagnose", "testdata", "corpus", p.file))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nft", "-f", "-")
	if filepath.Ext(p.file) == ".iptables" {
		cmd = exec.Command("iptables-restore", "--noflush")
	}
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(string(text), "virbr0", story.Bridge))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("loading %s: %v: %s", p.file, err, out)
	}
}

// newContainer is a guest on Docker's bridge.
func newContainer(t *testing.T) *nstest.NS {
	t.Helper()
	nstest.IP(t, "link add docker0 type bridge")
	nstest.IP(t, "addr add 172.17.0.1/16 dev docker0")
	nstest.IP(t, "link set docker0 up")
	c := nstest.Guest(t, "docker0", "c1", "")
	c.IP("addr add 172.17.0.2/16 dev eth0")
	c.IP("route add default via 172.17.0.1")
	return c
}

// Beside other programs' rules auto chooses what lets guests out, and says why: a guest has
// its lease and the LAN, its download goes on as the program's rules are flushed and
// made anew and as vnetd is started anew, and the program's own guests have what they had.
func TestBesideOtherPrograms(t *testing.T) {
	nstest.Beside(t)
	for _, p := range programs {
		t.Run(p.name, func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				l := nstest.NewLab(t)
				if err := l.SetFirewall("auto"); err != nil {
					t.Fatal(err)
				}
				var guests []*nstest.NS
				if p.container {
					guests = append(guests, newContainer(t))
				}
				p.load(t)
				v := l.StartVnetd()
				startNetwork(t, l, story.Network)
				guest := guestOn(t)
				guests = append(guests, guest)
				chosen(t, l, p.backend, p.reason)
				leftTo(t, p.backend)
				download := newFetch(t, guest)
				served := func(when string) {
					t.Helper()
					download.goesOn(when)
					for _, g := range guests {
						nstest.Eventually(t, limit, fmt.Sprintf("%s reaches the LAN %s", g.Name, when), func() error {
							return g.Command(t.Context(), "curl", "-sS", "--max-time", "2", "-o", "/dev/null", "http://"+nstest.LANHost+"/").Run()
						})
					}
				}
				served("at first")
				for _, command := range p.flush {
					words := strings.Fields(command)
					nstest.Exec(t, words[0], words[1:]...)
				}
				p.load(t)
				served("after the program has made its rules anew")
				leftTo(t, p.backend)
				stop(t, v)
				l.StartVnetd()
				chosen(t, l, p.backend, p.reason)
				served("after a restart of vnetd")
				if shown := vnetctl(t, l, "status"); strings.Contains(shown, "are cut off") {
					t.Errorf("status says\n%s", shown)
				}
			})
		})
	}
}
