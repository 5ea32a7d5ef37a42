package libvirtrpc

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/golden"
	"github.com/vnetd/vnetd/internal/nstest"
)

// TestVirshOfLibvirtd plays the transcripts of TestVirsh to a real libvirtd: what it
// answers otherwise stands in testdata/virsh/*.libvirtd, and the reasons in
// docs/libvirt.md.
func TestVirshOfLibvirtd(t *testing.T) {
	scripts, err := filepath.Glob("testdata/virsh/*.txt")
	must(t, err)
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txt"), func(t *testing.T) {
			nstest.Run(t, func(t *testing.T) {
				nstest.NewLab(t).StartLibvirtd()
				text, err := os.ReadFile(script)
				must(t, err)
				got := differences(string(text), replay(t, string(text), "qemu:///system"))
				golden.Compare(t, strings.TrimSuffix(script, ".txt")+".libvirtd", got)
			})
		})
	}
}

// differences are the commands that libvirtd answers otherwise than vnetd, with its
// answers. What is asked of the host or its guests is its QEMU driver's to answer.
func differences(vnetd, libvirtd string) string {
	var out strings.Builder
	ours := answers(vnetd)
	for i, theirs := range answers(libvirtd) {
		if ours[i] != theirs && !strings.Contains(ours[i], "not supported by the connection driver") && !strings.Contains(ours[i], connectionURI) {
			out.WriteString("$ " + theirs + "\n")
		}
	}
	return out.String()
}

// answers splits a transcript at its commands, each with what it printed.
func answers(transcript string) []string {
	_, commands, _ := strings.Cut("\n"+transcript, "\n$ ")
	return strings.Split(commands, "\n$ ")
}
