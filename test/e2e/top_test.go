package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/client"
	"github.com/vnetd/vnetd/test/story"
)

// terminal is one of tmux, with a program on it.
type terminal struct {
	t      *testing.T
	socket string
}

// openTerminal runs a shell's command on a terminal of that size.
func openTerminal(t *testing.T, width, height int, command string) *terminal {
	t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Fatalf("this needs tmux, which test/deps.sh installs: %v", err)
	}
	term := &terminal{t, filepath.Join(t.TempDir(), "tmux")}
	term.do("new-session", "-d", "-x", fmt.Sprint(width), "-y", fmt.Sprint(height), command)
	t.Cleanup(func() {
		_ = exec.Command("tmux", "-S", term.socket, "kill-server").Run() // it has ended with its program, where all is well
	})
	return term
}

// do has tmux do something.
func (term *terminal) do(args ...string) string {
	term.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", term.socket, "-f", "/dev/null"}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "SHELL=/bin/sh", "TERM=xterm")
	out, err := cmd.CombinedOutput()
	if err != nil {
		term.t.Fatalf("tmux %v: %v: %s", args, err, out)
	}
	return string(out)
}

// sees waits until all words are on the terminal, and none of those that begin with "!".
func (term *terminal) sees(words ...string) {
	term.t.Helper()
	nstest.Eventually(term.t, limit, strings.Join(words, ", "), func() error {
		text := term.do("capture-pane", "-p")
		for _, word := range words {
			if there := strings.Contains(text, strings.TrimPrefix(word, "!")); there == strings.HasPrefix(word, "!") {
				return fmt.Errorf("%q on the terminal is %v:\n%s", strings.TrimPrefix(word, "!"), there, text)
			}
		}
		return nil
	})
}

// TestTop runs vnetctl top on a terminal while a guest sends packets, the terminal is
// resized, and vnetd goes away and comes back.
func TestTop(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		l := nstest.NewLab(t)
		v := l.StartVnetd()
		startNetwork(t, l, story.Network)
		port, err := dial(t).RequestPort(t.Context(), story.Network, client.PortOptions{Name: "web1", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = port.Close() }()
		guest := nstest.Machine(t, "web1", port.Info.MAC, port.Files[0])
		leaseOf(t, guest, "web1")
		pinging := guest.Command(t.Context(), "ping", "-i", "0.02", "-s", "1000", story.Gateway)
		if err := pinging.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = errors.Join(pinging.Process.Kill(), pinging.Wait()) }()
		counted(t, l)

		code := filepath.Join(t.TempDir(), "code")
		term := openTerminal(t, 80, 24, fmt.Sprintf("%s top --interval 200ms; echo $? >%s; echo the screen is as it was; read -r wait", filepath.Join(l.Bin, "vnetctl"), code))
		term.sees(story.Network, "web1", "kB/s", "active", "by traffic")
		term.do("send-keys", "s")
		term.sees("by received")
		term.do("send-keys", "/")
		term.do("send-keys", "nobody", "Enter")
		term.sees("filter: nobody", "!web1")
		term.do("send-keys", "Escape")
		term.sees("web1", "!filter: nobody")
		term.do("resize-window", "-x", "40", "-y", "12")
		term.sees("web1", "!STOPPED")
		term.do("resize-window", "-x", "120", "-y", "30")
		term.sees("web1", "STOPPED")
		if err := v.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		term.sees("vnetd is not running", "web1")
		l.StartVnetd()
		term.sees("!vnetd is not running", "web1", "kB/s", "by received")
		term.do("send-keys", "q")
		term.sees("the screen is as it was", "!by received")
		if text, err := os.ReadFile(code); err != nil || strings.TrimSpace(string(text)) != "0" {
			t.Errorf("top ended with %s: %v", text, err)
		}
	})
}

// counted holds that what a guest sends is counted for its port, and that its network is.
func counted(t *testing.T, l *nstest.Lab) {
	t.Helper()
	nstest.Eventually(t, limit, "what the guest sends is counted", func() error {
		var p struct {
			Seconds   float64
			Conntrack *api.Conntrack
			Networks  []struct {
				Name  string
				Bytes float64 `json:"transmit_bytes_per_second"`
				Ports []struct {
					Name  string
					Bytes float64 `json:"transmit_bytes_per_second"`
				}
			}
		}
		if err := json.Unmarshal([]byte(vnetctl(t, l, "top", "--json", "--interval", "500ms")), &p); err != nil {
			t.Fatal(err)
		}
		if len(p.Networks) != 1 || len(p.Networks[0].Ports) != 1 || p.Networks[0].Ports[0].Name != "web1" || p.Networks[0].Ports[0].Bytes < 1000 ||
			p.Networks[0].Bytes != p.Networks[0].Ports[0].Bytes || p.Seconds < 0.5 || p.Conntrack == nil {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
}
