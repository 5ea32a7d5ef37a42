package packaging

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// reader reads packages of one kind.
type reader struct {
	pattern string                       // of the files in dist
	list    func(file string) []string   // argv that lists what is in one
	about   []func(file string) []string // argvs that print what it says of itself, with its scripts
	sbin    string                       // where the daemon is
	says    map[string][]string          // what each package says
}

// readers are those of the kinds that make makes.
var readers = map[string]reader{
	"rpm": {
		pattern: "dist/%s-[0-9]*.rpm", sbin: "/usr/sbin/vnetd",
		list: func(file string) []string { return []string{"rpm", "-qlp", file} },
		about: []func(string) []string{
			func(file string) []string {
				return []string{"rpm", "-qp", "--requires", "--recommends", "--scripts", file}
			},
			func(file string) []string {
				return []string{"rpm", "-qp", "--qf", "config: [%{FILENAMES} %{FILEFLAGS:fflags}\n]license: %{LICENSE}\n", file}
			},
		},
		says: map[string][]string{
			"vnetd":      {"systemd-sysusers vnetd.conf", "try-restart vnetd.service", "preuninstall scriptlet (using /bin/sh)", "iproute\n", "polkit\n", "/etc/vnetd/vnetd.toml cn\n", "license: Apache-2.0"},
			"vnetd-qemu": {"vnetd = "},
		},
	},
	"arch": {
		pattern: "dist/%s-[0-9]*.pkg.tar.zst", sbin: "/usr/bin/vnetd",
		list: func(file string) []string { return []string{"tar", "--zstd", "-tf", file} },
		about: []func(string) []string{
			func(file string) []string {
				return []string{"sh", "-c", "tar --zstd -xOf " + file + " .PKGINFO; tar --zstd -xOf " + file + " .INSTALL || true"}
			},
			func(file string) []string {
				return []string{"sh", "-c", "tar --zstd -xOf " + file + " --wildcards '*usr/lib/systemd/system/vnetd.service' || true"}
			},
		},
		says: map[string][]string{
			"vnetd":      {"depend = iproute2", "backup = etc/vnetd/vnetd.toml", "pre_remove()", "post_upgrade()", "try-restart vnetd.service", "ExecStart=/usr/bin/vnetd", "license = Apache-2.0"},
			"vnetd-qemu": {"depend = vnetd="},
		},
	},
}

// TestElsewhere holds the packages for other systems, which VNETD_PACKAGES names and make has
// made, to what belongs in them.
func TestElsewhere(t *testing.T) {
	kind := os.Getenv("VNETD_PACKAGES")
	if kind == "" {
		t.Skip("make rpm and make arch run this")
	}
	r := readers[kind]
	for name, files := range map[string][]string{
		"vnetd": {
			r.sbin, "/usr/bin/vnetctl", "/usr/libexec/vnetd/vnet-cluster", "/usr/libexec/vnetd/vnet-bgp", "/etc/vnetd/vnetd.toml", "/usr/lib/systemd/system/vnetd.service", "/usr/lib/sysusers.d/vnetd.conf", "/usr/lib/tmpfiles.d/vnetd.conf",
			"/usr/share/dbus-1/system.d/org.vnetd1.conf", "/usr/share/polkit-1/actions/org.vnetd1.policy", "/usr/share/zsh/site-functions/_vnetctl", "/usr/share/vnetd/alerts.yml", "/usr/share/vnetd",
			"/usr/share/man/man1/vnetctl.1.gz", "/usr/share/licenses/vnetd/LICENSE", "/usr/share/licenses/vnetd/third-party",
		},
		"vnetd-qemu": {"/usr/libexec/vnetd/vnet-bridge-helper", "/usr/share/man/man8/vnet-bridge-helper.8.gz", "/usr/share/licenses/vnetd-qemu/LICENSE"},
	} {
		found, err := filepath.Glob(filepath.Join("..", fmt.Sprintf(r.pattern, name)))
		if err != nil || len(found) != 1 {
			t.Fatalf("packages %s: %v, want one: %v", name, found, err)
		}
		var has []string
		for line := range strings.Lines(read(t, r.list(found[0]))) {
			has = append(has, "/"+strings.Trim(strings.TrimPrefix(strings.TrimSpace(line), "."), "/"))
		}
		for _, file := range files {
			if !slices.Contains(has, file) {
				t.Errorf("%s lacks %s", found[0], file)
			}
		}
		for _, file := range has {
			if !belongs(kind, file) {
				t.Errorf("%s has %s", found[0], file)
			}
		}
		said := ""
		for _, about := range r.about {
			said += read(t, about(found[0]))
		}
		for _, want := range r.says[name] {
			if !strings.Contains(said, want) {
				t.Errorf("%s does not say %q:\n%s", found[0], want, said)
			}
		}
		for _, debian := range []string{"deb-systemd", "dpkg", "update-alternatives", "policykit-1"} {
			if strings.Contains(said, debian) {
				t.Errorf("%s speaks of %s:\n%s", found[0], debian, said)
			}
		}
	}
}

// belongs reports whether a file may be in a package of that kind: what is the system's or
// Debian's may not.
func belongs(kind, file string) bool {
	theirs := []string{"/", "/etc", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib/systemd", "/usr/lib/systemd/system", "/usr/share", "/usr/share/man", "/usr/share/man/man1", "/usr/share/doc"}
	if kind == "arch" { // pacman shares directories
		theirs = []string{"/usr/sbin", "/usr/sbin/vnetd"}
	}
	return !slices.Contains(theirs, file) && !strings.Contains(file, "lintian") && !strings.Contains(file, "vendor-completions") && !strings.HasPrefix(file, "/lib/")
}

// read runs a command and returns what it prints.
func read(t *testing.T, argv []string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatalf("%v: %v", argv, err)
	}
	return string(out)
}
