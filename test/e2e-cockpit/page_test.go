// Package cockpit tests the page of Cockpit, with the real Cockpit and a real browser, on a
// laboratory hypervisor with vnetd. What a person does there is in cockpit/test.
package cockpit

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/client"
)

// limit ends what would hang.
const limit = 8 * time.Minute

// Where things listen, in the namespace of the test.
const (
	adminAddress   = "127.0.0.1:9090" // Cockpit, of root
	userAddress    = "127.0.0.1:9091" // Cockpit, of who may only look
	controlAddress = "127.0.0.1:9092" // control
)

// host is the laboratory with what the page needs beside vnetd.
type host struct {
	t     *testing.T
	lab   *nstest.Lab
	root  string // of the source tree
	vnetd *nstest.Vnetd
	work  chan func() // what serveControl wants done
}

func TestPage(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		root, err := nstest.Root()
		if err != nil {
			t.Fatal(err)
		}
		h := &host{t: t, root: root, lab: nstest.NewLab(t), work: make(chan func())}
		nstest.StartPolkit(t)
		nobody := nstest.User{Name: "visitor", UID: 4711}
		nstest.NewUsers(t, nobody)
		h.vnetd = h.lab.StartVnetd()
		h.installPage()
		h.enterRoot()
		h.startJournal()
		h.serveControl()
		h.startCockpit(adminAddress, func(*exec.Cmd) error { return nil })
		h.startCockpit(userAddress, nobody.Become)
		h.browse()
	})
}

// installPage puts the page where Cockpit looks, and a systemctl that starts this vnetd
// before the machine's.
func (h *host) installPage() {
	h.t.Helper()
	page := filepath.Join(h.root, "bin/cockpit")
	if _, err := os.Stat(filepath.Join(page, "manifest.json")); err != nil {
		h.t.Fatalf("the page is not built, run make cockpit: %v", err)
	}
	const systemctl = "#!/bin/sh\n[ \"$*\" = 'start vnetd.service' ] || exit 1\nexec curl -sf -X POST http://" + controlAddress + "/start\n"
	err := errors.Join(os.MkdirAll("/run/page/cockpit", 0o755), os.MkdirAll("/run/programs", 0o755))
	if err == nil {
		err = errors.Join(
			os.CopyFS("/run/page/cockpit/vnetd", os.DirFS(page)),
			os.WriteFile("/run/programs/systemctl", []byte(systemctl), 0o755),
		)
	}
	if err != nil {
		h.t.Fatalf("installing the page: %v", err)
	}
}

// cockpitRoot is the root of another release of Debian whose Cockpit is tried, empty for this
// machine's.
var cockpitRoot = os.Getenv("COCKPIT_ROOT")

// enterRoot lets what runs in cockpitRoot see the processes, users and sockets of the test.
func (h *host) enterRoot() {
	h.t.Helper()
	if cockpitRoot == "" {
		return
	}
	for _, path := range []string{"/dev", "/proc", "/sys", "/run", "/etc/passwd", "/etc/group"} {
		if err := unix.Mount(path, cockpitRoot+path, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			h.t.Fatalf("binding %s into %s: %v", path, cockpitRoot, err)
		}
	}
}

// start runs a program until the test ends; what it said is shown when the test failed.
func (h *host) start(cmd *exec.Cmd) {
	h.t.Helper()
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		h.t.Fatalf("starting %s: %v", cmd.Path, err)
	}
	h.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("%s said:\n%s", cmd.Path, &said)
		}
	})
}

// startJournal starts a journal of the namespace's own, which is empty, and reads nothing of
// the machine's.
func (h *host) startJournal() {
	h.t.Helper()
	const config = "/etc/systemd/journald.conf.d/page.conf"
	err := errors.Join(
		unix.Mount("tmpfs", "/var/log", "tmpfs", 0, ""),
		unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""), // it looks up there whose lines are
		os.MkdirAll("/run/systemd/journal", 0o755),
		os.MkdirAll(filepath.Dir(config), 0o755),
	)
	if err == nil {
		err = os.WriteFile(config, []byte("[Journal]\nStorage=volatile\nReadKMsg=no\n"), 0o644)
	}
	if err != nil {
		h.t.Fatalf("preparing the journal: %v", err)
	}
	h.start(exec.Command("/lib/systemd/systemd-journald"))
	nstest.Eventually(h.t, 10*time.Second, "the journal listens", func() error {
		conn, err := net.Dial("unixgram", "/run/systemd/journal/socket")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// startCockpit starts a server of Cockpit at an address, with a session of the user that
// become makes it.
func (h *host) startCockpit(address string, become func(*exec.Cmd) error) {
	h.t.Helper()
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		h.t.Fatal(err)
	}
	home := filepath.Join("/run/home", port)
	if err := os.MkdirAll(home, 0o777); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(home, 0o777); err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("/usr/lib/cockpit/cockpit-ws", "--no-tls", "--address=127.0.0.1", "--port="+port, "--local-session=/usr/bin/cockpit-bridge")
	cmd.Env = append(os.Environ(), "XDG_DATA_DIRS=/run/page:/usr/share", "XDG_RUNTIME_DIR="+home, "HOME="+home, "PATH=/run/programs:"+os.Getenv("PATH"))
	if err := become(cmd); err != nil {
		h.t.Fatal(err)
	}
	if cockpitRoot != "" {
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = new(syscall.SysProcAttr)
		}
		cmd.SysProcAttr.Chroot, cmd.Dir = cockpitRoot, "/"
	}
	h.start(cmd)
	nstest.Eventually(h.t, 20*time.Second, "Cockpit answers", func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// serveControl lets the tests in the browser's language have done what they can't do by a
// command: stop and start vnetd, and plug guests in. It is done on the test's own goroutine,
// by browse.
func (h *host) serveControl() {
	h.t.Helper()
	mux := http.NewServeMux()
	for verb, do := range map[string]func(*http.Request){
		"POST /stop": func(*http.Request) {
			if err := h.vnetd.Stop(h.t.Context()); err != nil {
				h.t.Error(err)
			}
		},
		"POST /start": func(*http.Request) { h.vnetd = h.lab.StartVnetd() },
		"POST /guest": func(r *http.Request) { h.plugIn(r.FormValue("network"), r.FormValue("name")) },
	} {
		mux.HandleFunc(verb, func(_ http.ResponseWriter, r *http.Request) {
			done := make(chan struct{})
			h.work <- func() { defer close(done); do(r) }
			<-done
		})
	}
	listener, err := net.Listen("tcp", controlAddress)
	if err != nil {
		h.t.Fatal(err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	h.t.Cleanup(func() { _ = server.Close() })
}

// plugIn plugs a guest into a network by a port, and has it get an address.
func (h *host) plugIn(network, name string) {
	h.t.Helper()
	c, err := client.Dial(h.t.Context())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	p, err := c.RequestPort(h.t.Context(), network, client.PortOptions{Name: name})
	if err != nil {
		h.t.Fatalf("a port for %s: %v", name, err)
	}
	h.t.Cleanup(func() { _ = p.Close() })
	guest := nstest.Machine(h.t, name, p.Info.MAC, p.Files[0])
	guest.Exec("busybox", "udhcpc", "-f", "-q", "-n", "-t", "20", "-T", "1", "-i", "eth0", "-x", "hostname:"+name, "-s", "/run/dhcp.sh")
}

// browse runs the tests of cockpit/test, one file after another: they share the host.
func (h *host) browse() {
	h.t.Helper()
	pictures := filepath.Join(h.root, ".cache/cockpit/pictures")
	if err := os.MkdirAll(pictures, 0o755); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(h.t.Context(), limit)
	defer cancel()
	for _, file := range []string{"po", "topology", "document", "page"} {
		args := []string{"--test-reporter=spec", "--test"}
		if only := os.Getenv("ONLY"); only != "" {
			args = append(args, "--test-name-pattern="+only)
		}
		cmd := exec.CommandContext(ctx, "node", append(args, "test/"+file+".test.js")...)
		cmd.Dir = filepath.Join(h.root, "cockpit")
		cmd.Env = append(os.Environ(), "ADMIN=http://"+adminAddress, "VISITOR=http://"+userAddress, "CONTROL=http://"+controlAddress,
			"PICTURES="+pictures, "VNETCTL="+filepath.Join(h.lab.Bin, "vnetctl"))
		h.wait(cmd)
	}
}

// wait runs a program, and does meanwhile what it wants done.
func (h *host) wait(cmd *exec.Cmd) {
	h.t.Helper()
	var out []byte
	ended := make(chan error, 1)
	go func() {
		var err error
		out, err = cmd.CombinedOutput()
		ended <- err
	}()
	for {
		select {
		case do := <-h.work:
			do()
		case err := <-ended:
			h.t.Logf("\n%s", out)
			switch {
			case err != nil:
				h.t.Errorf("%v: %v", cmd.Args, err)
			case !ran.Match(out) && os.Getenv("ONLY") == "":
				h.t.Errorf("%v: no test ran", cmd.Args)
			}
			return
		}
	}
}

// ran matches the closing line of Node.js's test runner after some tests passed.
var ran = regexp.MustCompile(`(?m)^\S+ pass [1-9]`)
