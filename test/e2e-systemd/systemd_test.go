// Package systemd holds the test of the Debian packages and the unit: on virtual
// machines with Debian 12 and 13 and systemd as pid 1 they are installed, enabled,
// restarted, reloaded, upgraded, starved, rebooted and purged, with a guest that
// must not notice.
package systemd

import (
	"bufio"
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vnetd/vnetd/internal/nstest"
)

// limit ends what would hang: emulated, the story takes several minutes.
const limit = 40 * time.Minute

// steps are those of machine/story.sh, in their order.
var steps = []string{
	"install_packages", "enable_service", "follow_readme", "run_unprivileged", "serve_guest", "hold_port",
	"restart_service", "lose_nothing", "lose_nothing_by_crash", "explain_log", "reload_service", "resolve_names", "admit_users", "plug_macvtap", "answer_virsh", "import_libvirt", "upgrade_packages",
	"survive_watchdog", "survive_crash", "stop_and_call",
	"serve_after_reboot", "serve_legacy", "remove_packages", "purge_packages",
}

// suites are the releases of Debian, and the steps that have no sense there: Debian 13
// has no program of iptables unless it is asked for.
var suites = []struct{ name, without string }{
	{name: "bookworm"},
	{name: "trixie", without: "serve_legacy"},
}

// shown are the lines of the console that belong to the transcript.
var shown = regexp.MustCompile(`(STEP|SAW|STORY|\||Kernel panic|mount:|insmod:) .*`)

var step = regexp.MustCompile(`^STEP (\w+): (.*)$`)

func TestPackagesOnSystemd(t *testing.T) {
	for _, s := range suites {
		t.Run(s.name, func(t *testing.T) {
			want := slices.DeleteFunc(slices.Clone(steps), func(step string) bool { return step == s.without })
			if diff := cmp.Diff(want, tell(t, s.name)); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
		})
	}
}

// tell has the story told by a machine with that release of Debian, and returns the steps
// that it came to.
func tell(t *testing.T, suite string) (got []string) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	out := t.TempDir()
	if text, err := exec.CommandContext(ctx, "sh", "image.sh", suite, out).CombinedOutput(); err != nil {
		t.Fatalf("making the machine: %v\n%s", err, text)
	}
	visit := func(line string) {
		t.Log(line)
		if m := step.FindStringSubmatch(line); m != nil {
			got = append(got, m[1])
			if m[2] != "ok" {
				t.Errorf("step %s: %s", m[1], m[2])
			}
		}
	}
	// The machine reboots once: QEMU ends with the first half of the story. Where Debian 13's
	// kernel panics before the first step, as it does at times when it is emulated, it is booted
	// again: vnetd is not installed yet.
	for halves, panics := 0, 0; halves < 2; {
		last, err := boot(ctx, out, visit)
		if panicked := strings.Contains(strings.Join(last, "\n"), "Kernel panic"); panicked && len(got) == 0 && panics < maxPanics {
			panics++
			t.Logf("it is booted again; the end of its console:\n%s", strings.Join(last, "\n"))
			continue
		}
		if halves++; err != nil || t.Failed() {
			t.Logf("the end of its console:\n%s", strings.Join(last, "\n"))
		}
		if err != nil {
			t.Fatalf("running the machine: %v", err)
		}
	}
	return got
}

// maxPanics is how many panics of the kernel, before anything of vnetd's is there, are put up with.
const maxPanics = 3

// consoleLines is how many lines of the console are shown when something fails.
const consoleLines = 60

// boot runs the machine of dir until it reboots or powers itself off, and calls
// visit with each line of the transcript. It returns the last lines of the console.
func boot(ctx context.Context, dir string, visit func(line string)) (last []string, err error) {
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-smp", "2", "-m", "1024",
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none", "-serial", "stdio",
		"-drive", "if=virtio,format=raw,cache=unsafe,file="+filepath.Join(dir, "disk"),
		"-kernel", filepath.Join(dir, "vmlinuz"), "-initrd", filepath.Join(dir, "initramfs.gz"),
		"-append", nstest.CommandLine+"loglevel=3 systemd.show_status=no systemd.mask=serial-getty@ttyS0.service")
	console, err := qemu.StdoutPipe()
	if err != nil {
		return nil, err
	}
	qemu.Stderr = qemu.Stdout // QEMU's own complaints
	if err := qemu.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(console)
	for lines.Scan() {
		last = append(last, lines.Text())
		last = last[max(0, len(last)-consoleLines):]
		if line := shown.FindString(lines.Text()); line != "" {
			visit(line)
		}
	}
	return last, errors.Join(lines.Err(), qemu.Wait())
}
