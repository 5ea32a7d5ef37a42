package nstest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// envInGuest tells a test binary that it runs in a guest.
const envInGuest = "VNETD_IN_GUEST"

// selfLimit is how long a test may take in a guest, with the boot.
const (
	selfLimit  = 20 * time.Minute
	bootMargin = 5 * time.Minute // of that for the boot, and for saying what hangs
)

// RunInGuest is Run in a guest of QEMU's, for what this machine's kernel has not: the
// guest's is Debian's, with the modules of files loaded in their order. The same test
// binary runs the body there, with the files, ip(8) and bridge(8).
func RunInGuest(t *testing.T, files GuestFiles, body func(t *testing.T)) {
	t.Helper()
	if os.Getenv(envInGuest) != "" {
		Run(t, body)
		return
	}
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	modules := files.Modules
	files.Programs = append(files.Programs, self, "ip", "bridge")
	guest := BootGuest(t, GuestConfig{Name: "self", NoDHCP: true, Memory: 512, Initrd: GuestInitrd(t, files)})
	ctx, cancel := context.WithTimeout(t.Context(), selfLimit)
	defer cancel()
	for _, command := range []string{
		"for i in " + strings.Join(modules, " ") + "; do insmod /modules/$i.ko || exit 1; done",
		"mkdir -p /run /var/lib",
		"cd /tmp && " + envInGuest + "=1 " + filepath.Join("/bin", filepath.Base(self)) + " -test.v -test.count=1 -test.timeout=" + (selfLimit - bootMargin).String() + " -test.run='" + exactPattern(t.Name()) + "' 2>&1",
	} {
		out, status, err := guest.Run(ctx, command)
		switch {
		case err != nil || status != 0:
			t.Fatalf("in the guest, %s: status %d, %v\n%s", command, status, err, out)
		case strings.Contains(out, "--- SKIP"):
			t.Fatalf("in the guest the body skipped:\n%s", out)
		case testing.Verbose():
			t.Logf("\n%s", out)
		}
	}
}
