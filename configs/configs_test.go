// Package configs holds what is installed beside the programs, and the tests of
// what it promises. The settings of vnetd.toml are tested where they are read.
package configs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// denyAll is a system bus as Debian has it: nothing is allowed that no policy
// allows.
const denyAll = `<busconfig>
  <listen>unix:path=%[1]s</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <include>%[2]s</include>
</busconfig>`

// daemonUser is the user vnetd of these tests.
const daemonUser = 64321

// TestBusPolicy holds that root and the user vnetd alone may be vnetd, and that
// everybody may talk to it.
func TestBusPolicy(t *testing.T) {
	policy, err := filepath.Abs("org.vnetd1.conf")
	if err != nil {
		t.Fatal(err)
	}
	nstest.Run(t, func(t *testing.T) {
		const socket = "/run/bus"
		if err := os.WriteFile("/run/bus.conf", fmt.Appendf(nil, denyAll, socket, policy), 0o644); err != nil {
			t.Fatal(err)
		}
		nstest.NewUsers(t, nstest.User{Name: "vnetd", UID: daemonUser})
		startBus(t)
		const nobody = 65534
		for _, uid := range []uint32{0, daemonUser} {
			if out, err := own(uid); err != nil {
				t.Errorf("user %d may not own the name: %v: %s", uid, err, out)
			}
		}
		if out, err := own(nobody); err == nil || !strings.Contains(out, "Access denied") {
			t.Errorf("a user may own the name: %v: %s", err, out)
		}
		// Nobody owns the name: that it is unknown says that the policy let the
		// message pass.
		out, err := busctl(nobody, "call", "org.vnetd1", "/org/vnetd1", "org.vnetd1.Manager", "ListNetworks").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "was not provided") {
			t.Errorf("a user's call: %v: %s", err, out)
		}
	})
}

// TestDaemonMayAskPolkit holds that the user vnetd, like root, may ask polkit what
// somebody else may do, and nobody else may.
func TestDaemonMayAskPolkit(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		const stranger = 64322
		nstest.NewUsers(t, nstest.User{Name: "vnetd", UID: daemonUser}, nstest.User{Name: "stranger", UID: stranger})
		nstest.StartBus(t)
		nstest.StartPolkit(t)
		for _, action := range []string{"read", "request-port", "choose-address", "manage-networks"} {
			if out, err := askPolkit(daemonUser, "org.vnetd1."+action); err != nil {
				t.Errorf("the daemon may not ask about %s: %v: %s", action, err, out)
			}
			if out, err := askPolkit(stranger, "org.vnetd1."+action); err == nil || !strings.Contains(out, "Only trusted callers") {
				t.Errorf("a user may ask what root may do of %s: %v: %s", action, err, out)
			}
		}
	})
}

// askPolkit asks as a user what the first process may do.
func askPolkit(uid uint32, action string) (string, error) {
	cmd := exec.Command("busctl", "call", "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
		"org.freedesktop.PolicyKit1.Authority", "CheckAuthorization", "(sa{sv})sa{ss}us",
		"unix-process", "2", "pid", "u", "1", "start-time", "t", "0", action, "0", "0", "")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestAlerts holds alerts.yml to what promtool says of it, and each of its alerts to be raised
// by its test.
func TestAlerts(t *testing.T) {
	const promtool, tests = "../.cache/promtool", "testdata/alerts_test.yml" // test/deps.sh fetches promtool
	if _, err := os.Stat(promtool); err != nil && os.Getenv("CI") != "true" {
		t.Skip("this needs promtool, which test/deps.sh fetches")
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", tests}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v: %s", args, err, out)
		}
	}
	rules, err1 := os.ReadFile("alerts.yml")
	text, err2 := os.ReadFile(tests)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllSubmatch(rules, -1)
	if len(alerts) == 0 {
		t.Error("there are no alerts")
	}
	for _, alert := range alerts {
		if !bytes.Contains(text, fmt.Appendf(nil, "alertname=%q", alert[1])) {
			t.Errorf("no test raises %s", alert[1])
		}
	}
}

// startBus starts a bus with /run/bus.conf and waits until it listens.
func startBus(t *testing.T) {
	t.Helper()
	bus := exec.Command("dbus-daemon", "--config-file=/run/bus.conf", "--nofork", "--nopidfile", "--print-address")
	out, err := bus.StdoutPipe()
	if err == nil {
		err = bus.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bus.Process.Kill()
		_ = bus.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the bus did not start: %v", err)
	}
}

// own asks the bus for the name as a user.
func own(uid uint32) (string, error) {
	out, err := busctl(uid, "call", "org.freedesktop.DBus", "/org/freedesktop/DBus",
		"org.freedesktop.DBus", "RequestName", "su", "org.vnetd1", "4").CombinedOutput()
	return string(out), err
}

// busctl is a call as a user.
func busctl(uid uint32, args ...string) *exec.Cmd {
	cmd := exec.Command("busctl", append([]string{"--address=unix:path=/run/bus"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return cmd
}
