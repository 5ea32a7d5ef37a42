package dhcpdtest

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
)

// ShortLease is the lease time of the tests with many clients: T1 is half of it, T2
// seven eighths.
const ShortLease = 16 * time.Second

// StepLimit is how long such a client may take for one step.
const StepLimit = 4 * ShortLease

// System is a machine with one DHCP client. What the client keeps on disk is the
// machine's own and outlives the client.
type System struct {
	t     *testing.T
	Kind  string
	HW    string
	Guest *nstest.NS
	disk  string
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has
}

// NewSystem plugs a machine into br0.
func NewSystem(t *testing.T, kind, name, hw, id string) *System {
	t.Helper()
	return NewSystemOn(t, kind, nstest.Guest(t, "br0", name, hw), hw, id)
}

// NewSystemOn is NewSystem of a machine that is there, whose card is eth0.
func NewSystemOn(t *testing.T, kind string, guest *nstest.NS, hw, id string) *System {
	t.Helper()
	s := &System{t: t, Kind: kind, HW: hw, Guest: guest, disk: t.TempDir()}
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

// files returns the client's settings. id is a client identifier of its own making; the
// client's default when it is empty.
func (s *System) files(id string) map[string]string {
	switch s.Kind {
	case "dhclient":
		conf := "timeout 20;\nretry 1;\ninitial-interval 1;\nbackoff-cutoff 2;\n"
		if id != "" {
			conf += "send dhcp-client-identifier \"" + id + "\";\n"
		}
		return map[string]string{"conf": conf, "script": "#!/bin/sh\n" +
			"case $reason in PREINIT) ip link set $interface up;; BOUND|RENEW|REBIND|REBOOT) ip addr replace $new_ip_address/24 dev $interface\n" +
			"[ -z \"$new_routers\" ] || ip route replace default via ${new_routers%% *};;\n" +
			"EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev $interface;; esac\nexit 0\n"}
	case "dhclient6":
		return map[string]string{"conf": "", "script": "#!/bin/sh\n" +
			"case $reason in BOUND6|RENEW6|REBIND6) ip -6 addr replace $new_ip6_address/128 dev $interface;;\n" +
			"EXPIRE6|RELEASE6|STOP6) ip -6 addr del $old_ip6_address/128 dev $interface;; esac\nexit 0\n"}
	case "udhcpc":
		return map[string]string{"script": "#!/bin/sh\n" +
			"case $1 in bound|renew) ip addr replace $ip/24 dev $interface;; deconfig) ip -4 addr flush dev $interface;; esac\nexit 0\n"}
	case "dhcpcd":
		conf := "ipv4only\nnoarp\nscript /bin/true\n"
		if id != "" {
			conf += "clientid " + id + "\n"
		}
		return map[string]string{"conf": conf}
	case "dhcpcd46":
		return map[string]string{"conf": "duid ll\nslaac hwaddr\nipv6rs\nia_na 1\nscript /bin/true\n"}
	case "dhcpcd6":
		conf := "ipv6only\nduid ll\nslaac hwaddr\nia_na 1\noption dhcp6_name_servers, dhcp6_domain_search\nscript /var/lib/dhcpcd/hook\n"
		return map[string]string{"conf": conf, "hook": "#!/bin/sh\nset >>/var/lib/dhcpcd/notes\n"}
	case "NetworkManager":
		return map[string]string{
			"nm.conf":                  nmConf,
			"nm/eth0.nmconnection":     nmConnection,
			"lib/NetworkManager/empty": "",
			"bus.conf":                 nmBus,
		}
	default: // systemd-networkd
		conf := "[Match]\nName=eth0\n[Network]\nDHCP=yes\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=yes\nKeepConfiguration=no\n[DHCPv4]\nSendRelease=yes\n"
		if id != "" {
			conf += "ClientIdentifier=duid\nIAID=7\n"
		}
		return map[string]string{"systemd/network/10-eth0.network": conf, "systemd/netif/state": ""}
	}
}

// What NetworkManager is told: to use its own client and leave the machine's files alone,
// and that anybody may use its bus, which is its own as well.
const (
	nmConf = "[main]\nplugins=keyfile\ndhcp=internal\ndns=none\nhostname-mode=none\nauth-polkit=false\nno-auto-default=*\n" +
		"[keyfile]\npath=/run/nm\n[connectivity]\nenabled=false\n[logging]\nlevel=DEBUG\ndomains=DHCP4,DHCP6,IP4,IP6,DEVICE,CORE\n"
	nmConnection = "[connection]\nid=eth0\nuuid=0d0e0f10-1112-4314-9516-171819202122\ntype=ethernet\ninterface-name=eth0\nautoconnect=true\n" +
		"[ipv4]\nmethod=auto\ndhcp-hostname=nmguest\n[ipv6]\nmethod=auto\naddr-gen-mode=stable-privacy\ndhcp-hostname=nmguest\n"
	nmBus = `<busconfig><type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth><policy context="default">` +
		`<allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/><allow user="*"/></policy></busconfig>`

	// It is to believe that it is in a container, where no udev tells it of interfaces. The
	// bus goes with it.
	nmScript = `disk=%s; mount --bind $disk/lib /var/lib; mount -t tmpfs tmpfs /run; mkdir -p /run/dbus /run/nm
install -m 600 $disk/nm/eth0.nmconnection /run/nm/; mount -o remount,ro /sys
setpriv --pdeathsig KILL dbus-daemon --config-file=$disk/bus.conf --nofork --nopidfile &
until [ -S /run/dbus/system_bus_socket ]; do sleep 0.1; done
exec "$@"`
)

// client returns the command line of the client, in the foreground. It runs with files of
// its own where it would use the machine's.
func (s *System) client(id string) []string {
	in := func(name string) string { return filepath.Join(s.disk, name) }
	switch s.Kind {
	case "dhclient", "dhclient6":
		family := "-4"
		if s.Kind == "dhclient6" {
			family = "-6"
		}
		return []string{"dhclient", family, "-d", "-cf", in("conf"), "-sf", in("script"), "-lf", in("leases"), "-pf", in("pid"), "eth0"}
	case "udhcpc":
		args := []string{"busybox", "udhcpc", "-i", "eth0", "-f", "-R", "-t", "20", "-T", "1", "-s", in("script")}
		if id != "" {
			args = append(args, "-C", "-x", fmt.Sprintf("0x3d:%x", id))
		}
		// busybox keeps no lease: the script's machine would ask for the address it had.
		if a := s.Addr(); a.IsValid() {
			args = append(args, "-r", a.String())
		}
		return args
	case "dhcpcd":
		return s.inside("/var/lib/dhcpcd", "/run", "", "dhcpcd", "-4", "-B", "-f", in("conf"), "eth0")
	case "dhcpcd46":
		return s.inside("/var/lib/dhcpcd", "/run", "", "dhcpcd", "-B", "-d", "-f", in("conf"), "eth0")
	case "dhcpcd6":
		return s.inside("/var/lib/dhcpcd", "/run", "", "dhcpcd", "-6", "-B", "-d", "-h", "roy", "-f", in("conf"), "eth0")
	case "NetworkManager":
		root, err := filepath.Abs("../../../.cache/networkmanager/root")
		if err != nil {
			s.t.Fatal(err)
		}
		env := []string{"env", "LD_LIBRARY_PATH=" + root + "/usr/lib/x86_64-linux-gnu", root + "/usr/sbin/NetworkManager"}
		return append([]string{"sh", "-c", fmt.Sprintf(nmScript, s.disk), "-"}, append(env,
			"--no-daemon", "--config="+in("nm.conf"), "--config-dir="+in("none"), "--state-file="+in("state"), "--pid-file=/run/nm.pid")...)
	default:
		return s.inside("/run", "", "mount -o remount,ro /sys; chown -R systemd-network: /run/systemd/netif;", "/lib/systemd/systemd-networkd")
	}
}

// inside returns a command line that runs a program with the machine's disk mounted on one
// directory, and nothing on another.
func (s *System) inside(disk, empty, more string, argv ...string) []string {
	script := "mount --bind " + s.disk + " " + disk + ";"
	if empty != "" {
		script += "mount -t tmpfs tmpfs " + empty + ";"
	}
	return append([]string{"sh", "-c", script + more + `exec "$@"`, "-"}, argv...)
}

// Start starts the client.
func (s *System) Start(id string) {
	s.t.Helper()
	argv := s.client(id)
	s.cmd = s.Guest.Command(context.Background(), argv[0], argv[1:]...)
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

// Read returns what a file on the machine's disk holds, nothing when it is not there.
func (s *System) Read(name string) string {
	text, _ := os.ReadFile(filepath.Join(s.disk, name))
	return string(text)
}

// Addr returns the machine's IPv4 address, zero when it has none.
func (s *System) Addr() netip.Addr {
	for _, field := range strings.Fields(s.Guest.IP("-4 -o addr show dev eth0")) {
		if p, err := netip.ParsePrefix(field); err == nil {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Stop ends the client: with a release of its lease, or without a word.
func (s *System) Stop(release bool) {
	s.t.Helper()
	signal := syscall.SIGTERM
	switch {
	case !release:
		signal = syscall.SIGKILL
	case strings.HasPrefix(s.Kind, "dhclient"):
		argv := s.client("")
		argv[2] = "-r"
		if out, err := s.Guest.Command(s.t.Context(), argv[0], argv[1:]...).CombinedOutput(); err != nil {
			s.t.Errorf("dhclient -r: %v\n%s", err, out)
		}
	case strings.HasPrefix(s.Kind, "dhcpcd"):
		signal = syscall.SIGALRM
	}
	s.signalUntilGone(signal)
}

// signalUntilGone sends the client a signal, again and again until the client has
// ended: dhcpcd loses the one that comes while it waits for its privileged helper, as
// it does whenever it runs its script.
func (s *System) signalUntilGone(signal syscall.Signal) {
	s.t.Helper()
	nstest.Eventually(s.t, StepLimit, s.Kind+" ends", func() error {
		_ = s.cmd.Process.Signal(signal)
		select {
		case <-s.ended:
			return nil
		case <-time.After(time.Second):
			return fmt.Errorf("it runs; its log:\n%s", s.Read("log"))
		}
	})
	s.cmd = nil
}

// Kinds returns the clients.
func Kinds() []string { return []string{"dhclient", "udhcpc", "dhcpcd", "networkd"} }

// Expect waits until each of the machines has been in an event of one of these kinds.
func Expect(t *testing.T, log *EventLog, events string, systems []*System) {
	t.Helper()
	ExpectEach(t, log, systems, func(*System) string { return events })
}

// ExpectEach is Expect with a machine's own kinds of events.
func ExpectEach(t *testing.T, log *EventLog, systems []*System, events func(*System) string) {
	t.Helper()
	var seen []string
	nstest.Eventually(t, StepLimit, "each client has its events", func() error {
		seen = append(seen, log.Take()...)
		for _, s := range systems {
			if !slices.ContainsFunc(seen, func(got string) bool {
				event, _, _ := strings.Cut(got, " ")
				return strings.Contains(events(s), event) && strings.HasSuffix(got, s.HW)
			}) {
				return fmt.Errorf("%s (%s) is not %s; its log:\n%s", s.Kind, s.HW, events(s), s.Read("log"))
			}
		}
		return nil
	})
}
