package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/test/libvirtcorpus"
)

// ruleCases returns libvirt's networks of which it tests the rules, by name, and
// the commands that it expects for each.
func ruleCases(t *testing.T) (xml, commands map[string]string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir, err := libvirtcorpus.Dir(ctx)
	if err != nil && os.Getenv("CI") != "true" {
		t.Skipf("without libvirt's test files: %v", err)
	}
	if err != nil {
		t.Fatalf("libvirt's test files are needed: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "networkxml2firewalldata", "*"))
	if err != nil {
		t.Fatal(err)
	}
	xml, commands = map[string]string{}, map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name, extension, _ := strings.Cut(filepath.Base(file), ".")
		switch extension {
		case "xml":
			xml[name] = string(text)
		case "args", "iptables": // before libvirt 10.4, and since
			commands[strings.TrimSuffix(name, "-linux")] = string(text)
		}
	}
	if len(xml) == 0 || commands["base"] == "" {
		t.Fatalf("%s has %d networks, and base is %q", dir, len(xml), commands["base"])
	}
	return xml, commands
}

// chainsOf are the chains of ours and all rules of a listing by iptables-save, but for the
// jumps to the administrator's chains, which libvirt has not.
func chainsOf(listing string) []string {
	var out []string
	for line := range strings.Lines(listing) {
		line = strings.TrimSpace(line)
		switch {
		case line == "-A INPUT -j VNETD_USER_INP", line == "-A FORWARD -j VNETD_USER_FWD":
		case strings.HasPrefix(line, "*"), strings.HasPrefix(line, "-A "):
			out = append(out, line)
		case strings.HasPrefix(line, ":LIBVIRT_"):
			chain, _, _ := strings.Cut(line, " ")
			out = append(out, chain)
		}
	}
	return out
}

// A network of libvirt's own tests, started by vnetd, has the chains that
// libvirt's commands make in another namespace: to the letter if that is asked
// for, with the guards of routed subnets besides if not.
func TestRulesOfLibvirtsTests(t *testing.T) {
	xml, commands := ruleCases(t)
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		nstest.IP(t, "link add enp0s7 type bridge") // some networks name it
		replay := nstest.NewNS(t, "replay")
		for _, exact := range []string{"true", "false"} {
			if err := os.MkdirAll("/etc/vnetd", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile("/etc/vnetd/vnetd.toml", []byte("firewall_backend = \"iptables\"\n[firewall]\nlibvirt_exact_rules = "+exact+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			v := l.StartVnetd()
			for name, text := range xml {
				file := filepath.Join(t.TempDir(), name+".xml")
				if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "/some/dir", t.TempDir())), 0o644); err != nil {
					t.Fatal(err)
				}
				vnetctl(t, l, "define", file)
				vnetctl(t, l, "start", "default")
				replay.Exec("sh", "-ec", commands["base"]+commands[name])
				for _, save := range []string{"iptables-save", "ip6tables-save"} {
					want, got := chainsOf(replay.Exec(save)), chainsOf(nstest.Exec(t, save))
					if exact == "false" {
						got = withoutGuards(got)
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s, exact rules %s, %s (-libvirt +vnetd):\n%s", name, exact, save, diff)
					}
				}
				vnetctl(t, l, "stop", "default")
				vnetctl(t, l, "undefine", "default")
				replay.Exec("nft", "flush", "ruleset")
			}
			v.Kill()
		}
		t.Logf("%d networks", len(xml))
	})
}

// withoutGuards drops the rules by which vnetd differs from libvirt.
func withoutGuards(rules []string) []string {
	var out []string
	for _, rule := range rules {
		if !strings.HasPrefix(rule, "-A LIBVIRT_FWI -d ") || !strings.HasSuffix(rule, " -j LIBVIRT_FWO") {
			out = append(out, rule)
		}
	}
	return out
}
