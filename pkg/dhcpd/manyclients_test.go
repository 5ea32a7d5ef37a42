package dhcpd_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// manyLease is the lease time of the tests with many clients: T1 is half of it, T2
// seven eighths.
const manyLease = 16 * time.Second

// manyLimit is how long such a client may take for one step.
const manyLimit = 4 * manyLease

// system is a machine with one DHCP client. What the client keeps on disk is the
// machine's own and outlives the client.
type system struct {
	t     *testing.T
	kind  string
	hw    string
	guest *nstest.NS
	disk  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
}

// newSystem plugs a machine into br0.
func newSystem(t *testing.T, kind, name, hw, id string) *system {
	t.Helper()
	s := &system{t: t, kind: kind, hw: hw, guest: nstest.Guest(t, "br0", name, hw), disk: t.TempDir()}
	for name, text := range s.files(id) {
		path := filepath.Join(s.disk, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(s.disk, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd != nil {
			_ = s.cmd.Process.Kill()
			<-s.ended
		}
	})
	return s
}

// files are the client's settings. id is a client identifier of its own making; the
// client's default when it is empty.
func (s *system) files(id string) map[string]string {
	switch s.kind {
	case "dhclient":
		conf := "timeout 20;\nretry 1;\ninitial-interval 1;\nbackoff-cutoff 2;\n"
		if id != "" {
			conf += "send dhcp-client-identifier \"" + id + "\";\n"
		}
		return map[string]string{"conf": conf, "script": "#!/bin/sh\n" +
			"case $reason in PREINIT) ip link set $interface up;; BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface;;\n" +
			"EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev $interface;; esac\nexit 0\n"}
	case "udhcpc":
		return map[string]string{"script": "#!/bin/sh\n" +
			"case $1 in bound|renew) ip addr replace $ip/24 dev $interface;; deconfig) ip -4 addr flush dev $interface;; esac\nexit 0\n"}
	case "dhcpcd":
		conf := "ipv4only\nnoarp\nscript /bin/true\n"
		if id != "" {
			conf += "clientid " + id + "\n"
		}
		return map[string]string{"conf": conf}
	case "dhcpcd6":
		conf := "ipv6only\nduid ll\nslaac hwaddr\nia_na 1\noption dhcp6_name_servers, dhcp6_domain_search\nscript /var/lib/dhcpcd/hook\n"
		return map[string]string{"conf": conf, "hook": "#!/bin/sh\nset >>/var/lib/dhcpcd/notes\n"}
	default: // systemd-networkd
		conf := "[Match]\nName=eth0\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=yes\nKeepConfiguration=no\n[DHCPv4]\nSendRelease=yes\n"
		if id != "" {
			conf += "ClientIdentifier=duid\nIAID=7\n"
		}
		return map[string]string{"systemd/network/10-eth0.network": conf, "systemd/netif/state": ""}
	}
}

// client is the command line of the client, in the foreground. It runs with files of
// its own where it would use the machine's.
func (s *system) client(id string) []string {
	in := func(name string) string { return filepath.Join(s.disk, name) }
	switch s.kind {
	case "dhclient":
		return []string{"dhclient", "-4", "-d", "-cf", in("conf"), "-sf", in("script"), "-lf", in("leases"), "-pf", in("pid"), "eth0"}
	case "udhcpc":
		args := []string{"busybox", "udhcpc", "-i", "eth0", "-f", "-R", "-t", "20", "-T", "1", "-s", in("script")}
		if id != "" {
			args = append(args, "-C", "-x", fmt.Sprintf("0x3d:%x", id))
		}
		// busybox keeps no lease: the script's machine would ask for the address it had.
		if a := s.addr(); a.IsValid() {
			args = append(args, "-r", a.String())
		}
		return args
	case "dhcpcd":
		return s.inside("/var/lib/dhcpcd", "/run", "", "dhcpcd", "-4", "-B", "-f", in("conf"), "eth0")
	case "dhcpcd6":
		return s.inside("/var/lib/dhcpcd", "/run", "", "dhcpcd", "-6", "-B", "-d", "-h", "roy", "-f", in("conf"), "eth0")
	default:
		return s.inside("/run", "", "mount -o remount,ro /sys; chown -R systemd-network: /run/systemd/netif;", "/lib/systemd/systemd-networkd")
	}
}

// inside is a command line that runs a program with the machine's disk mounted on one
// directory, and nothing on another.
func (s *system) inside(disk, empty, more string, argv ...string) []string {
	script := "mount --bind " + s.disk + " " + disk + ";"
	if empty != "" {
		script += "mount -t tmpfs tmpfs " + empty + ";"
	}
	return append([]string{"sh", "-c", script + more + `exec "$@"`, "-"}, argv...)
}

// start starts the client.
func (s *system) start(id string) {
	s.t.Helper()
	argv := s.client(id)
	s.cmd = s.guest.Command(context.Background(), argv[0], argv[1:]...)
	log, err := os.Create(filepath.Join(s.disk, "log"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) {
		_ = cmd.Wait() // with a signal's status
		close(ended)
	}(s.cmd, s.ended)
}

// read is what a file on the machine's disk holds, nothing when it is not there.
func (s *system) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(s.disk, name))
	return string(text)
}

// addr is the machine's IPv4 address, zero when it has none.
func (s *system) addr() netip.Addr {
	for _, field := range strings.Fields(s.guest.IP("-4 -o addr show dev eth0")) {
		if p, err := netip.ParsePrefix(field); err == nil {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// stop ends the client: with a release of its lease, or without a word.
func (s *system) stop(release bool) {
	s.t.Helper()
	signal := syscall.SIGTERM
	switch {
	case !release:
		signal = syscall.SIGKILL
	case s.kind == "dhclient":
		argv := s.client("")
		argv[2] = "-r"
		if out, err := s.guest.Command(s.t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			s.t.Errorf("dhclient -r: %v\n%s", err, out)
		}
	case strings.HasPrefix(s.kind, "dhcpcd"):
		signal = syscall.SIGALRM
	}
	s.signalUntilGone(signal)
}

// signalUntilGone sends the client a signal, again and again until the client has
// ended: dhcpcd loses the one that comes while it waits for its privileged helper, as
// it does whenever it runs its script.
func (s *system) signalUntilGone(signal syscall.Signal) {
	s.t.Helper()
	nstest.Eventually(s.t, manyLimit, s.kind+" ends", func() error {
		_ = s.cmd.Process.Signal(signal)
		select {
		case <-s.ended:
			return nil
		case <-time.After(time.Second):
			return fmt.Errorf("it runs; its log:\n%s", s.read("log"))
		}
	})
	s.cmd = nil
}

// kinds are the clients.
func kinds() []string { return []string{"dhclient", "udhcpc", "dhcpcd", "networkd"} }

// manyConfig is testConfig with short leases.
func manyConfig() dhcpd.Config {
	cfg := testConfig()
	cfg.LeaseTime = manyLease
	return cfg
}

// expect waits until each of the machines has been in an event of one of these kinds.
func expect(t *testing.T, log *eventLog, events string, systems []*system) {
	t.Helper()
	expectEach(t, log, systems, func(*system) string { return events })
}

// expectEach is expect with a machine's own kinds of events.
func expectEach(t *testing.T, log *eventLog, systems []*system, events func(*system) string) {
	t.Helper()
	var seen []string
	nstest.Eventually(t, manyLimit, "each client has its events", func() error {
		seen = append(seen, log.take()...)
		for _, s := range systems {
			if !slices.ContainsFunc(seen, func(got string) bool {
				event, _, _ := strings.Cut(got, " ")
				return strings.Contains(events(s), event) && strings.HasSuffix(got, s.hw)
			}) {
				return fmt.Errorf("%s (%s) is not %s; its log:\n%s", s.kind, s.hw, events(s), s.read("log"))
			}
		}
		return nil
	})
}

// TestManyClients takes every client through its life: bound, renewed, rebound by
// broadcast after the server has started anew and does not hear what is sent to it
// alone, rebooted with the address that it had, released.
func TestManyClients(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		makeBridge(t)
		cfg := manyConfig()
		e := start(t, cfg, nil, dhcpd.Open)
		var systems []*system
		for i, kind := range kinds() {
			systems = append(systems, newSystem(t, kind, fmt.Sprintf("g%d", i), mac(byte(0x40+i)).String(), ""))
			systems[i].start("")
		}
		expect(t, e.events, "bound", systems)
		had := make(map[*system]netip.Addr)
		for _, s := range systems {
			nstest.Eventually(t, manyLimit, s.kind+" sets its address", func() error {
				if had[s] = s.addr(); !had[s].IsValid() {
					return errors.New("none")
				}
				return nil
			})
		}
		e.events.take()
		expect(t, e.events, "renewed", systems)

		if err := e.stop(); err != nil {
			t.Fatal(err)
		}
		nstest.Exec(t, "iptables", "-A", "INPUT", "-p", "udp", "-d", serverAddr.String(), "--dport", "67", "-j", "DROP")
		e = start(t, cfg, nil, dhcpd.Open)
		// On a machine with much to do a client may begin anew: it rebinds the next time.
		// busybox asks so late that its lease is over, by the server's clock.
		expectEach(t, e.events, systems, func(s *system) string {
			if s.kind == "udhcpc" {
				return "renewed or bound"
			}
			return "renewed"
		})
		nstest.Exec(t, "iptables", "-F", "INPUT")

		for _, s := range systems {
			s.stop(false)
			s.start("")
		}
		e.events.take()
		expect(t, e.events, "renewed or bound", systems)
		for _, s := range systems {
			if got := s.addr(); got != had[s] {
				t.Errorf("%s has %v after a reboot, had %v", s.kind, got, had[s])
			}
			s.stop(true)
		}
		expect(t, e.events, "released", systems)
		if got := e.srv.Stats(); got.Nak != 0 {
			t.Errorf("counters %+v", got)
		}
	})
}

// TestClones has two machines of each kind send one client identifier, as copies of
// one disk do: each has an address of its own, and keeps it.
func TestClones(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		makeBridge(t)
		cfg := manyConfig()
		cfg.Ranges = []dhcpd.Range{{Start: ip(100), End: ip(200)}}
		e := start(t, cfg, nil, dhcpd.Open)
		var systems []*system
		for i := range 2 * len(kinds()) {
			s := newSystem(t, kinds()[i/2], fmt.Sprintf("g%d", i), mac(byte(0x40+i)).String(), "clone")
			s.start("clone")
			systems = append(systems, s)
		}
		expect(t, e.events, "bound", systems)
		expect(t, e.events, "renewed", systems)
		ids := make(map[string][]dhcpd.Lease)
		for _, l := range e.srv.Leases() {
			ids[string(l.ClientID)] = append(ids[string(l.ClientID)], l)
		}
		if len(e.srv.Leases()) != len(systems) {
			t.Errorf("there are %d leases, want one for each of %d machines: %+v", len(e.srv.Leases()), len(systems), e.srv.Leases())
		}
		for id, leases := range ids {
			if len(leases)%2 != 0 || id == "" {
				t.Errorf("the identifier %q is that of %d leases, want those of both clones", id, len(leases))
			}
		}
	})
}
