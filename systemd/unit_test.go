// Package systemd holds the units, and the test of what they promise.
package systemd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/systemd"
)

// exposureLimit is the highest score of `systemd-analyze security` that a unit may
// have.
const exposureLimit = 2.5

func TestUnitsAreConfined(t *testing.T) {
	for _, unit := range []string{"vnetd.service", "vnet-port@.service", "vnetd-mirror-libvirt.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", unit).CombinedOutput()
		if err != nil {
			t.Fatalf("systemd-analyze security: %v\n%s", err, out)
		}
		m := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).FindSubmatch(out)
		if m == nil {
			t.Fatalf("no score in:\n%s", out)
		}
		if score, err := strconv.ParseFloat(string(m[1]), 64); err != nil || score > exposureLimit {
			t.Errorf("%s scores %s (%v), want at most %.1f:\n%s", unit, m[1], err, exposureLimit, out)
		}
	}
}

// TestPortUnit holds the unit of a port to what systemd understands. The programs
// that it names need not be installed here.
func TestPortUnit(t *testing.T) {
	dir := t.TempDir()
	text, err := os.ReadFile("vnet-port@.service")
	if err != nil {
		t.Fatal(err)
	}
	unit := strings.ReplaceAll(string(text), "/usr/bin/vnetctl", "/bin/true")
	unit = strings.ReplaceAll(unit, "Requires=vnetd.service\n", "")
	file := filepath.Join(dir, "vnet-port@web.service")
	if err := os.WriteFile(file, []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", file).CombinedOutput()
	if err != nil || strings.Contains(string(out), "vnet-port") {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestStoreMax holds that systemd keeps as many descriptors as vnetd stores.
func TestStoreMax(t *testing.T) {
	text, err := os.ReadFile("vnetd.service")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("\nFileDescriptorStoreMax=%d\n", systemd.StoreMax); !strings.Contains(string(text), want) {
		t.Errorf("vnetd.service has no line %q", strings.TrimSpace(want))
	}
}

// TestDaemonIsNoPet holds that the kernel, short of memory, ends vnetd before it ends
// many guests for it.
func TestDaemonIsNoPet(t *testing.T) {
	text, err := os.ReadFile("vnetd.service")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^OOMScoreAdjust=(-?[0-9]+)$`).FindSubmatch(text)
	if m == nil {
		t.Fatal("vnetd.service says nothing of OOMScoreAdjust")
	}
	if score, err := strconv.Atoi(string(m[1])); err != nil || score < -200 || score >= 0 {
		t.Errorf("OOMScoreAdjust=%s (%v), want -200 to -1", m[1], err)
	}
}
