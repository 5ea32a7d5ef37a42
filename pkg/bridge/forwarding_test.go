package bridge_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/bridge"
)

const sysctlFile = bridge.DefaultSysctlDir + "/" + bridge.SysctlFile

// checkSysctlFile compares the file with the wanted lines after the comment; none
// are wanted without a file.
func checkSysctlFile(t *testing.T, want string) {
	t.Helper()
	data, err := os.ReadFile(sysctlFile)
	if err != nil && want != "" {
		t.Fatal(err)
	}
	if want != "" {
		want = "# Written by vnetd: what it switched on while networks are active.\n" + want
	}
	if diff := cmp.Diff(want, string(data)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", sysctlFile, diff)
	}
}

func forward(t *testing.T, b *bridge.Bridges, v4, v6 bool) bridge.Forwarding {
	t.Helper()
	f, err := b.Forward(v4, v6)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// noForwarding is a host as it is after boot.
func noForwarding(t *testing.T) {
	t.Helper()
	setSysctl(t, "ipv4/ip_forward", "0")
	setSysctl(t, "ipv6/conf/all/forwarding", "0")
}

func TestForward(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		b := newBridges(t)
		noForwarding(t)
		for _, tt := range []struct {
			v4, v6         bool
			wantV4, wantV6 string
		}{
			{false, false, "0", "0"},
			{true, false, "1", "0"},
			{false, true, "1", "1"},
			{false, false, "1", "1"},
			{true, true, "1", "1"},
		} {
			forward(t, b, tt.v4, tt.v6)
			if got4, got6 := sysctl(t, "ipv4/ip_forward"), sysctl(t, "ipv6/conf/all/forwarding"); got4 != tt.wantV4 || got6 != tt.wantV6 {
				t.Errorf("after Forward(%v, %v): IPv4 %s, IPv6 %s", tt.v4, tt.v6, got4, got6)
			}
		}
	})
}

// withoutSysctlFiles hides the machine's sysctl files but for one that switches
// forwarding off.
func withoutSysctlFiles(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc/sysctl.d", "/usr/lib/sysctl.d", "/usr/local/lib/sysctl.d"} {
		if _, err := os.Stat(dir); err == nil {
			nstest.Exec(t, "mount", "-t", "tmpfs", "tmpfs", dir)
		}
	}
	if _, err := os.Stat("/etc/sysctl.conf"); err == nil {
		nstest.Exec(t, "mount", "--bind", "/dev/null", "/etc/sysctl.conf")
	}
	off := "net.ipv4.ip_forward = 0\nnet.ipv6.conf.all.forwarding = 0\nnet.ipv6.conf.eno1.accept_ra = 1\n"
	if err := os.WriteFile("/etc/sysctl.d/50-default.conf", []byte(off), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestForwardingSurvivesSysctlSystem(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		advertisedHost(t)
		withoutSysctlFiles(t)
		forward(t, newBridges(t), true, true)
		nstest.Exec(t, "sysctl", "--pattern", "^net[./]ipv[46][./]", "--system")
		for key, want := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/eno1/accept_ra": "2"} {
			if got := sysctl(t, key); got != want {
				t.Errorf("%s is %s after sysctl --system, want %s", key, got, want)
			}
		}
	})
}

func TestOnlyWhatWasSetIsPersisted(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		noForwarding(t)
		setSysctl(t, "ipv4/ip_forward", "1") // by an admin
		forward(t, newBridges(t), true, false)
		checkSysctlFile(t, "")
		forward(t, newBridges(t), true, true)
		checkSysctlFile(t, "net/ipv6/conf/all/forwarding = 1\n")
		setSysctl(t, "ipv4/ip_forward", "0")
		forward(t, newBridges(t), true, true) // another vnetd
		checkSysctlFile(t, "net/ipv4/ip_forward = 1\nnet/ipv6/conf/all/forwarding = 1\n")
	})
}

func TestForwardingWithoutAPlaceToPersist(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			dir   string
			fails bool
		}{
			{file, true}, // no directory
			{"/proc/self", true},
			{"", false},
			{filepath.Join(t.TempDir(), "new", "dir"), false},
		} {
			noForwarding(t)
			b := newBridges(t)
			b.SetSysctlDir(tt.dir)
			if f := forward(t, b, true, true); (f.Unsaved != nil) != tt.fails {
				t.Errorf("directory %q: %v", tt.dir, f.Unsaved)
			}
			if sysctl(t, "ipv4/ip_forward") != "1" || sysctl(t, "ipv6/conf/all/forwarding") != "1" {
				t.Errorf("directory %q: forwarding is off", tt.dir)
			}
		}
	})
}

// advertisedHost is a host with routes by router advertisements on eno1 and
// eno2, which accept_ra=1 and 0.
func advertisedHost(t *testing.T) {
	t.Helper()
	hostLinks(t)
	noForwarding(t)
	setSysctl(t, "ipv6/conf/eno1/accept_ra", "1")
	setSysctl(t, "ipv6/conf/eno2/accept_ra", "0")
	nstest.IP(t, "-6 addr add 2001:db8:1::1/64 dev eno1 nodad")
	nstest.IP(t, "-6 route add default via 2001:db8:1::2 dev eno1 proto ra")
	nstest.IP(t, "-6 route add 2001:db8:7::/64 via 2001:db8:1::2 dev eno1 proto ra")
	nstest.IP(t, "-6 route add default via fe80::1 dev eno2 proto ra metric 2048")
}

// TestForwardingKeepsAdvertisedRoutes: a host that got its default route from a
// router advertisement would lose it when it forwards.
func TestForwardingKeepsAdvertisedRoutes(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		advertisedHost(t)
		b := newBridges(t)
		f := forward(t, b, true, true)
		want := []bridge.AcceptRA{{Link: "eno1", AcceptRA: "1", Forwarding: "0"}}
		if diff := cmp.Diff(want, f.AcceptRA); diff != "" {
			t.Errorf("raised (-want +got):\n%s", diff)
		}
		checkSysctls(t, map[string]string{
			"all/forwarding": "1", "eno1/forwarding": "1", "eno1/accept_ra": "2", "eno2/accept_ra": "0",
		})
		checkSysctlFile(t, "net/ipv4/ip_forward = 1\nnet/ipv6/conf/all/forwarding = 1\nnet/ipv6/conf/eno1/accept_ra = 2\n")
		if again := forward(t, b, true, true); len(again.AcceptRA) != 0 {
			t.Errorf("raised again: %v", again.AcceptRA)
		}

		data, err := json.Marshal(f.AcceptRA)
		if err != nil {
			t.Fatal(err)
		}
		var raised []bridge.AcceptRA
		if err := json.Unmarshal(data, &raised); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := b.RestoreAcceptRA(raised); err != nil {
				t.Error(err)
			}
			checkSysctls(t, map[string]string{"all/forwarding": "1", "eno1/forwarding": "0", "eno1/accept_ra": "1"})
			checkSysctlFile(t, "net/ipv4/ip_forward = 1\nnet/ipv6/conf/all/forwarding = 1\n")
		}
	})
}

func checkSysctls(t *testing.T, want map[string]string) {
	t.Helper()
	for key, value := range want {
		if got := sysctl(t, "ipv6/conf/"+key); got != value {
			t.Errorf("%s = %s, want %s", key, got, value)
		}
	}
}

func TestRestoreAcceptRALeavesOthersAlone(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		advertisedHost(t)
		b := newBridges(t)
		raised := forward(t, b, false, true).AcceptRA
		setSysctl(t, "ipv6/conf/eno1/accept_ra", "0") // by an admin
		raised = append(raised, bridge.AcceptRA{Link: "gone", AcceptRA: "1", Forwarding: "0"})
		if err := b.RestoreAcceptRA(raised); err != nil {
			t.Error(err)
		}
		checkSysctls(t, map[string]string{"eno1/forwarding": "1", "eno1/accept_ra": "0"})
		if err := b.RestoreAcceptRA([]bridge.AcceptRA{{Link: "../all", AcceptRA: "1", Forwarding: "0"}}); err == nil {
			t.Error("a path instead of a link's name was taken")
		}
	})
}
