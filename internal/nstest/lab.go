package nstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Lab is a hypervisor with nothing on it but vnetd's programs: a LAN behind
// eno1 with a web server and a name server, a system bus, and /etc and /var/lib
// that may be written to. Make it in the namespaces of Run or Alone.
type Lab struct {
	LAN   *NS
	Web   *Web
	Names *NameServer
	Bus   *Bus
	// Bin is the folder of vnetd, vnetctl and vnet-bridge-helper.
	Bin string

	vnetd *Vnetd // the last one that was started

	t TB
}

// NewLab makes the lab. Nothing of vnetd runs yet.
func NewLab(t TB) *Lab {
	t.Helper()
	root, err := Root()
	if err != nil {
		t.Fatalf("finding the programs: %v", err)
	}
	l := &Lab{Bin: filepath.Join(root, "bin"), t: t}
	if err := privateState(); err != nil {
		t.Fatalf("making /etc and /var/lib private: %v", err)
	}
	if err := l.SetFirewall("iptables"); err != nil {
		t.Fatalf("writing vnetd's configuration: %v", err)
	}
	l.LAN = NewLAN(t)
	l.Web = NewWeb(t, l.LAN)
	l.Names = NewNameServer(t, l.LAN)
	l.Bus = StartBus(t)
	return l
}

// privateState puts a copy on /etc, in which the LAN host is the name server,
// and an empty folder on /var/lib.
func privateState() error {
	const etc, lib = "/run/lab/etc", "/run/lab/lib"
	if err := errors.Join(os.MkdirAll(etc, 0o755), os.MkdirAll(lib, 0o755)); err != nil {
		return err
	}
	if err := command(context.Background(), "cp", "-a", "/etc/.", etc); err != nil {
		return err
	}
	resolv := filepath.Join(etc, "resolv.conf")
	if err := os.Remove(resolv); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(resolv, []byte("nameserver "+LANHost+"\n"), 0o644); err != nil {
		return err
	}
	return errors.Join(unix.Mount(etc, "/etc", "", unix.MS_BIND, ""), unix.Mount(lib, "/var/lib", "", unix.MS_BIND, ""))
}

// Helper is the absolute path of the bridge helper.
func (l *Lab) Helper() string { return filepath.Join(l.Bin, "vnet-bridge-helper") }

// Result is how a program ended.
type Result struct {
	Stdout, Stderr string
	Code           int // -1: it did not run or was killed
}

// Vnetctl runs vnetctl, to its end or until ctx ends.
func (l *Lab) Vnetctl(ctx context.Context, args ...string) Result {
	return l.VnetctlInput(ctx, "", args...)
}

// VnetctlInput is Vnetctl with a standard input.
func (l *Lab) VnetctlInput(ctx context.Context, stdin string, args ...string) Result {
	return resultOf(exec.CommandContext(ctx, filepath.Join(l.Bin, "vnetctl"), args...), stdin)
}

// resultOf runs a program with a standard input to its end.
func resultOf(cmd *exec.Cmd, stdin string) Result {
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	r := Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
	if cmd.ProcessState == nil {
		r.Stderr += err.Error()
	}
	return r
}

// Err is nil when the program ended with 0.
func (r Result) Err() error {
	if r.Code == 0 {
		return nil
	}
	return fmt.Errorf("exit code %d: %s%s", r.Code, r.Stdout, r.Stderr)
}

// SetFirewall has a vnetd that is started with its default configuration write rules by
// a backend: at first iptables, whose rules most tests look at.
func (l *Lab) SetFirewall(backend string) error {
	if err := os.MkdirAll("/etc/vnetd", 0o755); err != nil {
		return err
	}
	return os.WriteFile("/etc/vnetd/vnetd.toml", fmt.Appendf(nil, "firewall_backend = %q\n", backend), 0o644)
}

// counters are what changes in a listing of rules without any rule changing.
var counters = regexp.MustCompile(` \[\d+:\d+\]$`)

// Rules are the rules of a family as iptables-save lists them, without comments
// and counters: the tables filter, nat and mangle in this order, in each the
// chains, then the rules in their order. Built-in chains stand there only with
// a policy other than ACCEPT.
func Rules(ctx context.Context, save string) (string, error) {
	var b strings.Builder
	for _, table := range []string{"filter", "nat", "mangle"} {
		out, err := exec.CommandContext(ctx, save, "-t", table).Output()
		if err != nil {
			return "", fmt.Errorf("%s -t %s: %w", save, table, err)
		}
		fmt.Fprintf(&b, "*%s\n", table)
		writeRules(&b, string(out))
	}
	return b.String(), nil
}

// writeRules writes the chains by name and the rules as they come.
func writeRules(b *strings.Builder, listing string) {
	var chains, rules []string
	for line := range strings.Lines(listing) {
		line = counters.ReplaceAllString(strings.TrimSpace(line), "")
		switch {
		case strings.HasPrefix(line, "-"):
			rules = append(rules, line)
		case strings.HasPrefix(line, ":") && !strings.HasSuffix(line, " ACCEPT"):
			chains = append(chains, line)
		}
	}
	slices.Sort(chains)
	for _, line := range append(chains, rules...) {
		b.WriteString(line + "\n")
	}
}

// Links are the network devices of the hypervisor, one on a line: name, bridge,
// and whether it is up.
func Links(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "ip", "-o", "link").Output()
	if err != nil {
		return "", fmt.Errorf("listing links: %w", err)
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		lines = append(lines, linkFacts(line))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// linkFacts keeps the name, the flag UP and the master of a line of ip -o link.
func linkFacts(line string) string {
	fields := strings.Fields(line)
	facts := strings.TrimSuffix(fields[1], ":")
	if strings.Contains(fields[2], ",UP") {
		facts += " up"
	}
	if i := slices.Index(fields, "master"); i > 0 {
		facts += " on " + fields[i+1]
	}
	return facts
}
