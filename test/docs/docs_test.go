// Package docs runs the commands of the documentation: each block marked sh of
// the README and the pages, in their order, on a laboratory hypervisor on which
// vnetd is installed.
package docs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// limit ends a block that hangs.
const limit = 2 * time.Minute

// block is a fenced piece of shell.
type block struct {
	page string
	line int    // of its first command
	as   string // what follows sh in the fence: "" is run as root, "user" as a user, "three" on the first of three hosts, "host" is read only
	text string
}

// where names the block for a person.
func (b block) where() string { return fmt.Sprintf("%s:%d", b.page, b.line) }

// TestBlocksAreShell holds that the shell can read every block, those that need
// a host of their own included.
func TestBlocksAreShell(t *testing.T) {
	total := 0
	for _, page := range pages(t) {
		for _, b := range blocks(t, page) {
			total++
			cmd := exec.Command("sh", "-n")
			cmd.Stdin = strings.NewReader(b.text)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", b.where(), err, out)
			}
			if !slices.Contains([]string{"", "user", "three", "host"}, b.as) {
				t.Errorf("%s: the fence says sh %s, want sh, sh user, sh three or sh host", b.where(), b.as)
			}
		}
	}
	if total == 0 {
		t.Fatal("no block in any page")
	}
}

// TestCommands runs what each page says.
func TestCommands(t *testing.T) {
	for _, page := range pages(t) {
		all, run := blocks(t, page), runPage
		if !runs(all) {
			continue
		}
		if slices.ContainsFunc(all, func(b block) bool { return b.as == "three" }) {
			run = runThree
		}
		t.Run(filepath.Base(page), func(t *testing.T) { run(t, page) })
	}
}

// runs tells whether a page has something to run.
func runs(all []block) bool {
	for _, b := range all {
		if b.as != "host" {
			return true
		}
	}
	return false
}

// runPage runs a page in a laboratory of its own.
func runPage(t *testing.T, page string) {
	nstest.Run(t, func(t *testing.T) {
		root, err := nstest.Root()
		if err != nil {
			t.Fatal(err)
		}
		install(t, root)
		lab := nstest.NewLab(t)
		for _, command := range []string{
			"systemd-sysusers " + root + "/configs/vnetd.sysusers",
			"useradd --no-create-home --home-dir /run/alice alice",
			"chmod 666 /dev/net/tun",
		} {
			nstest.Exec(t, "sh", "-c", command)
		}
		lab.StartVnetd()
		start(t, lab)
		// Pages name this user and this network as if they were there.
		for _, b := range blocks(t, page) {
			if b.as == "host" {
				continue
			}
			if out, err := b.run(t.Context()); err != nil {
				t.Fatalf("%s: %v\n%s\nprinted:\n%s", b.where(), err, b.text, out)
			}
		}
	})
}

// install puts vnetd into /usr as `make install` does; the machine's own /usr is
// below and stays as it is.
func install(t *testing.T, root string) {
	t.Helper()
	const upper, work = "/run/usr/upper", "/run/usr/work"
	for _, dir := range []string{upper, work, "/run/alice"} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("usr", "/usr", "overlay", 0, "lowerdir=/usr,upperdir="+upper+",workdir="+work); err != nil {
		t.Fatalf("laying a private folder over /usr: %v", err)
	}
	for from, to := range map[string]string{
		"bin/vnetd": "sbin/vnetd", "bin/vnetctl": "bin/vnetctl", "bin/vnet-bridge-helper": "libexec/vnetd/vnet-bridge-helper", "bin/vnet-cluster": "libexec/vnetd/vnet-cluster", "bin/vnet-bgp": "libexec/vnetd/vnet-bgp",
		"configs/default.xml": "share/vnetd/networks/default.xml",
	} {
		nstest.Exec(t, "install", "-D", filepath.Join(root, from), filepath.Join("/usr", to))
	}
}

// start defines and starts the default network, as the package does.
func start(t *testing.T, lab *nstest.Lab) {
	t.Helper()
	for _, args := range [][]string{{"define", "/usr/share/vnetd/networks/default.xml"}, {"start", "default"}} {
		if err := lab.Vnetctl(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// run executes the block and returns what it printed. A program that it leaves
// behind does not hold it up.
func (b block) run(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := os.CreateTemp("", "docs")
	if err != nil {
		return "", err
	}
	defer os.Remove(out.Name())
	defer out.Close()
	args := []string{"sh", "-eu", "-c", b.text}
	dir := "/run"
	if b.as == "user" {
		args = append([]string{"runuser", "-u", "alice", "--"}, args...)
		dir = "/run/alice"
		if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
			return "", err
		}
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		return "", readErr
	}
	return string(text), err
}

// pages lists the documents in which commands stand.
func pages(t *testing.T) []string {
	t.Helper()
	root, err := nstest.Root()
	if err != nil {
		t.Fatal(err)
	}
	all, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	return append(all, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"))
}

// blocks reads the pieces of shell of a page.
func blocks(t *testing.T, page string) []block {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var all []block
	var now *block
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		fence, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case now != nil && isFence:
			all = append(all, *now)
			now = nil
		case now != nil:
			now.text += line
		case isFence && (fence == "sh" || strings.HasPrefix(fence, "sh ")):
			now = &block{page: page, line: n + 1, as: strings.TrimSpace(strings.TrimPrefix(fence, "sh"))}
		}
	}
	if now != nil {
		t.Fatalf("%s: the fence is not closed", now.where())
	}
	return all
}
