package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/story"
)

// dockers is what dockerd does to the filter table where it switches forwarding on.
var dockers = []string{
	"-N DOCKER-USER", "-N DOCKER-FORWARD", "-A FORWARD -j DOCKER-USER", "-A FORWARD -j DOCKER-FORWARD",
	"-A DOCKER-FORWARD -i docker0 -j ACCEPT", "-P FORWARD DROP",
}

// chosen waits until status says that rules are written by a backend.
func chosen(t *testing.T, l *nstest.Lab, backend, reason string) {
	t.Helper()
	nstest.Eventually(t, limit, "rules are written by "+backend, func() error {
		if shown := vnetctl(t, l, "status"); !strings.Contains(shown, "firewall: "+backend+" ("+reason) {
			return errors.New(shown)
		}
		return nil
	})
}

// rulesOf are what there is of each backend's rules.
func rulesOf(t *testing.T) (chains, tables bool) {
	t.Helper()
	all := nstest.Exec(t, "nft", "list", "ruleset")
	return strings.Contains(all, "LIBVIRT_"), strings.Contains(all, "table ip vnetd {")
}

// leftTo waits until there are rules of one backend alone.
func leftTo(t *testing.T, backend string) {
	t.Helper()
	nstest.Eventually(t, limit, "the rules are those of "+backend+" alone", func() error {
		chains, tables := rulesOf(t)
		if chains != (backend == "iptables") || tables != (backend == "nftables") {
			return fmt.Errorf("chains of iptables: %v, tables of nftables: %v", chains, tables)
		}
		return nil
	})
}

// fetch has a guest download from the LAN host in the background.
type fetch struct {
	t    *testing.T
	file string
}

// newFetch begins a download that lasts longer than the test.
func newFetch(t *testing.T, guest *nstest.NS) *fetch {
	t.Helper()
	f := &fetch{t, t.TempDir() + "/download"}
	out, err := os.Create(f.file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	cmd := guest.Command(t.Context(), "curl", "-sS", "-N", "http://"+nstest.LANHost+"/download?bytes=1000000000&rate=400000")
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return f
}

// size is how much came.
func (f *fetch) size() int64 {
	info, err := os.Stat(f.file)
	if err != nil {
		f.t.Fatal(err)
	}
	return info.Size()
}

// goesOn waits for more of it.
func (f *fetch) goesOn(when string) {
	f.t.Helper()
	before := f.size()
	nstest.Eventually(f.t, limit, "the download "+when, func() error {
		if now := f.size(); now < before+300_000 {
			return fmt.Errorf("%d bytes, before %d", now, before)
		}
		return nil
	})
}

// guestOn has a namespace be a guest of the story's network.
func guestOn(t *testing.T) *nstest.NS {
	t.Helper()
	guest := nstest.Guest(t, story.Bridge, "g1", "")
	leaseOf(t, guest, story.Host)
	guest.IP("route add default via " + story.Gateway)
	return guest
}

// A network changes over from one backend to the other, by a restart and while it is
// up, as Docker comes: a guest's download goes on, and nothing is left behind.
func TestBackendChanges(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		before := state(t) + nstest.Exec(t, "nft", "list", "ruleset")
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		download := newFetch(t, guestOn(t))
		chosen(t, l, "iptables", "firewall_backend asks for it")
		download.goesOn("with iptables")
		leftTo(t, "iptables")
		restart := func(backend string) {
			t.Helper()
			stop(t, v)
			if err := l.SetFirewall(backend); err != nil {
				t.Fatal(err)
			}
			v = l.StartVnetd()
		}
		restart("nftables")
		chosen(t, l, "nftables", "firewall_backend asks for it")
		leftTo(t, "nftables")
		download.goesOn("after a restart with nftables")
		v.Kill()
		download.goesOn("while vnetd is dead")
		v = l.StartVnetd()
		leftTo(t, "nftables")
		download.goesOn("after vnetd was killed")
		restart("iptables")
		leftTo(t, "iptables")
		download.goesOn("after a restart with iptables")
		restart("auto")
		chosen(t, l, "nftables", "nothing in iptables cuts guests off")
		leftTo(t, "nftables")
		download.goesOn("after a restart with what is best")
		for _, command := range dockers {
			nstest.Exec(t, "iptables", strings.Fields(command)...)
		}
		chosen(t, l, "iptables", "only rules in iptables stand before iptables -P FORWARD DROP")
		leftTo(t, "iptables")
		download.goesOn("after Docker came")
		restart("auto")
		chosen(t, l, "iptables", "only rules in iptables stand before iptables -P FORWARD DROP")
		download.goesOn("after a restart beside Docker")
		for _, command := range []string{"-P FORWARD ACCEPT", "-F DOCKER-FORWARD", "-D FORWARD -j DOCKER-USER", "-D FORWARD -j DOCKER-FORWARD", "-X DOCKER-USER", "-X DOCKER-FORWARD"} {
			nstest.Exec(t, "iptables", strings.Fields(command)...)
		}
		restart("nftables")
		leftTo(t, "nftables")
		download.goesOn("after Docker went")
		stop(t, v)
		if err := l.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if chains, tables := rulesOf(t); chains || tables {
			t.Errorf("after --cleanup there are chains of iptables: %v, tables of nftables: %v\n%s", chains, tables, before)
		}
	})
}

// On a host without any program of iptables and of nftables, networks of every mode
// work: a guest has a lease, and reaches the LAN where it shall.
func TestNoPrograms(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		nothing := t.TempDir() + "/nothing"
		if err := os.WriteFile(nothing, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		l := nstest.NewLab(t)
		for _, name := range []string{"iptables", "ip6tables", "nft"} {
			program, err := exec.Command("realpath", "/usr/sbin/"+name).Output()
			if err != nil {
				t.Fatal(err)
			}
			// iptables and ip6tables may be one program.
			_ = unix.Unmount(strings.TrimSpace(string(program)), 0)
			if err := unix.Mount(nothing, strings.TrimSpace(string(program)), "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		l.StartVnetd()
		for _, name := range []string{story.Network, "isolated-network", "routed-network"} {
			startNetwork(t, l, name)
		}
		chosen(t, l, "nftables", "iptables is not installed")
		guest := guestOn(t)
		guest.Exec("curl", "-sS", "--max-time", "20", "http://"+nstest.LANHost+"/")
		if shown := vnetctl(t, l, "status"); strings.Contains(shown, "iptables is not installed: apt") || strings.Contains(shown, "error host") {
			t.Errorf("status says\n%s", shown)
		}
		newFetch(t, guest).goesOn("without programs")
	})
}

// What others do to the tables is put right, by whomever, and told.
func TestTablesAreRepaired(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		if err := l.SetFirewall("nftables"); err != nil {
			t.Fatal(err)
		}
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		download := newFetch(t, guestOn(t))
		tables := func() string {
			return nstest.Exec(t, "nft", "-s", "list", "table", "ip", "vnetd")
		}
		want := tables()
		download.goesOn("at first")
		for i, damage := range []string{
			"flush ruleset", "delete table ip vnetd", "flush chain ip vnetd forward", "flush set ip vnetd bridges", "add rule ip vnetd forward drop",
		} {
			nstest.Exec(t, "nft", damage)
			nstest.Eventually(t, limit, "repair after nft "+damage, func() error {
				if got := strings.Count(v.Log(), `msg="firewall repaired"`); got != i+1 {
					return fmt.Errorf("%d repairs were told, want %d", got, i+1)
				}
				return nil
			})
			same(t, "the table after nft "+damage, want, tables())
			download.goesOn("after nft " + damage)
		}
		if !strings.Contains(v.Log(), "process=nft") {
			t.Errorf("the log does not name nft:\n%s", v.Log())
		}
		plan := vnetctl(t, l, "plan", testdata(t, story.Network+".xml"))
		if err := story.Contains("the plan", plan, "nft add rule ip vnetd outbound_virbr-nat oifname \"eno1\" ip saddr 192.168.10.0/24 accept"); err != nil {
			t.Error(err)
		}
	})
}

// With a program nft that fails or prints no list, a vnetd that chooses by what is in iptables
// stays with the backend whose rules stand, over a restart as well, and says so; it goes on
// choosing once nft lists rules again.
func TestBackendIsUndecided(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		program := strings.TrimSpace(nstest.Exec(t, "realpath", "/usr/sbin/nft"))
		broken := func(script string) {
			t.Helper()
			file := t.TempDir() + "/nft"
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount(file, program, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
		}
		mended := func() {
			t.Helper()
			if err := unix.Unmount(program, unix.MNT_DETACH); err != nil { // vnetd may run it
				t.Fatal(err)
			}
		}
		told := func(undecided bool) {
			t.Helper()
			nstest.Eventually(t, limit, "the condition", func() error {
				if shown := vnetctl(t, l, "status"); strings.Contains(shown, "networks stay with") != undecided {
					return errors.New(shown)
				}
				return nil
			})
		}
		restart := func(v *nstest.Vnetd, backend string) *nstest.Vnetd {
			t.Helper()
			stop(t, v)
			if err := l.SetFirewall(backend); err != nil {
				t.Fatal(err)
			}
			return l.StartVnetd()
		}
		broken("exit 1")
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		v = restart(v, "auto")
		chosen(t, l, "iptables", "its rules stand")
		told(true)
		mended()
		told(false)
		v = restart(v, "auto")
		chosen(t, l, "nftables", "nothing in iptables cuts guests off")
		leftTo(t, "nftables")
		broken(`echo '{"nftables": [{'`)
		restart(v, "auto")
		chosen(t, l, "nftables", "its rules stand")
		told(true)
		for _, command := range dockers {
			nstest.Exec(t, "iptables", strings.Fields(command)...)
		}
		told(true)
		chosen(t, l, "nftables", "its rules stand")
		mended()
		chosen(t, l, "iptables", "only rules in iptables stand before iptables -P FORWARD DROP")
		leftTo(t, "iptables")
		told(false)
	})
}
