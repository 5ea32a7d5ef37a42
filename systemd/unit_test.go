// Package systemd holds the units, and the test of what they promise.
package systemd

import (
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// exposureLimit is the highest score of `systemd-analyze security` that the
// unit may have.
const exposureLimit = 2.5

func TestUnitIsConfined(t *testing.T) {
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "vnetd.service").CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	m := regexp.MustCompile(`Overall exposure level for vnetd.service: ([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		t.Fatalf("no score in:\n%s", out)
	}
	if score, err := strconv.ParseFloat(string(m[1]), 64); err != nil || score > exposureLimit {
		t.Errorf("vnetd.service scores %s (%v), want at most %.1f:\n%s", m[1], err, exposureLimit, out)
	}
}
