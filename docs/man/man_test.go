// Package man holds the manual pages, and the test that they can be read.
package man

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// configuration is the file of which vnetd.toml(5) is made.
const configuration = "../../configs/vnetd.toml"

// pages renders vnetd.toml(5) and lists all pages.
func pages(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("*.[1-8]")
	if err != nil || len(all) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	out, err := exec.Command("awk", "-f", "vnetd.toml.5.awk", configuration).Output()
	if err != nil {
		t.Fatalf("making vnetd.toml(5): %v", err)
	}
	made := filepath.Join(t.TempDir(), "vnetd.toml.5")
	if err := os.WriteFile(made, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return append(all, made)
}

// TestPagesRender holds that both formatters in use have nothing to say about a
// page, and that no line is wider than a terminal.
func TestPagesRender(t *testing.T) {
	for _, page := range pages(t) {
		if out, err := exec.Command("mandoc", "-T", "lint", "-W", "warning", page).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("mandoc on %s: %v\n%s", filepath.Base(page), err, out)
		}
		man := exec.Command("man", "--warnings", "-E", "UTF-8", "--local-file", page)
		man.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANROFFSEQ=", "MANWIDTH=80", "PAGER=cat")
		var said strings.Builder
		man.Stderr = &said
		text, err := man.Output()
		if err != nil || said.Len() > 0 {
			t.Errorf("man on %s: %v\n%s", filepath.Base(page), err, said.String())
		}
		for line := range strings.Lines(string(text)) {
			if len([]rune(strings.TrimSpace(line))) > 80 {
				t.Errorf("%s: a line does not fit on a terminal: %s", filepath.Base(page), line)
			}
		}
	}
}

// TestPagesReferToPages holds that the pages that ours name are there: ours are
// known, and of others those that Debian has.
func TestPagesReferToPages(t *testing.T) {
	known := []string{"qemu-bridge-helper 8", "qemu-system-x86_64 1", "sd_notify 3", "virsh 1", "dnsmasq 8", "polkit 8", "journalctl 1", "systemd.exec 5", "tcpdump 8", "pcap-filter 7"}
	all := pages(t)
	for _, page := range all {
		base := filepath.Base(page)
		known = append(known, strings.TrimSuffix(base, filepath.Ext(base))+" "+filepath.Ext(base)[1:])
	}
	reference := regexp.MustCompile(`(?m)^\.Xr (\S+ \d)`)
	for _, page := range all {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range reference.FindAllStringSubmatch(string(text), -1) {
			if !slices.Contains(known, m[1]) {
				t.Errorf("%s refers to %s, which is not known", filepath.Base(page), m[1])
			}
		}
	}
}

// TestEveryKeyIsExplained holds that vnetd.toml(5) has each key of the file, with
// a text below it.
func TestEveryKeyIsExplained(t *testing.T) {
	text, err := os.ReadFile(configuration)
	if err != nil {
		t.Fatal(err)
	}
	all := pages(t)
	page, err := os.ReadFile(all[len(all)-1])
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`(?m)^(\w+) = `).FindAllStringSubmatch(string(text), -1)
	if len(keys) == 0 {
		t.Fatal("the configuration has no keys")
	}
	for _, key := range keys {
		entry := regexp.MustCompile(`(?m)^\.It Ic ` + key[1] + ` = .*\n[^.\n].{10,}`)
		if !entry.Match(page) {
			t.Errorf("vnetd.toml(5) does not explain %s", key[1])
		}
	}
}
