package cockpit

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// contents are the files of the package vnetd-cockpit.
const contents = `./usr/share/cockpit/vnetd/index.css.gz
./usr/share/cockpit/vnetd/index.html
./usr/share/cockpit/vnetd/index.js.gz
./usr/share/cockpit/vnetd/manifest.json
./usr/share/cockpit/vnetd/po.js
./usr/share/cockpit/vnetd/po.zh_CN.js
./usr/share/doc/vnetd-cockpit/changelog.gz
./usr/share/doc/vnetd-cockpit/copyright
./usr/share/doc/vnetd-cockpit/third-party-licences.gz
./usr/share/lintian/overrides/vnetd-cockpit
`

// TestPackage holds what the package that `make deb-cockpit` made has, and that nothing of
// it runs when it is installed.
func TestPackage(t *testing.T) {
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Glob(filepath.Join(root, "dist/vnetd-cockpit_*_all.deb"))
	if err != nil || len(packages) != 1 {
		t.Fatalf("the packages are %v: %v: run make deb-cockpit", packages, err)
	}
	var files []string
	for line := range strings.Lines(output(t, "dpkg-deb", "-c", packages[0])) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "d") {
			continue
		}
		if fields[0] != "-rw-r--r--" || fields[1] != "root/root" {
			t.Errorf("rights of a file: %s", line)
		}
		files = append(files, fields[5])
	}
	if diff := cmp.Diff(contents, strings.Join(files, "\n")+"\n"); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if scripts := output(t, "dpkg-deb", "-I", packages[0]); strings.Contains(scripts, "#!") || !strings.Contains(scripts, "Depends: cockpit-bridge (>= 287) | cockpit (>= 287)") {
		t.Errorf("the control file is\n%s", scripts)
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
