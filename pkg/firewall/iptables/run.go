package iptables

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// The variants of iptables: its rules live in nf_tables or in the kernel's
// older ip_tables. Neither shows the rules of the other.
const (
	variantNFT    = "nf_tables"
	variantLegacy = "legacy"
)

// lockWait is how long iptables-legacy waits for its lock, /run/xtables.lock.
const lockWait = 5 * time.Second

// execError is a program that ended with a fault.
type execError struct {
	program string
	stderr  string
	err     error
}

// Error is what the program said, on one line and without its usage hints; it
// names itself.
func (e *execError) Error() string {
	var said []string
	for line := range strings.Lines(e.stderr) {
		line = strings.TrimSpace(line)
		noise := line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "Try `") ||
			strings.HasPrefix(line, "Error occurred at line")
		if !noise {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return e.program + ": " + e.err.Error()
	}
	return strings.Join(said, " ")
}

func (e *execError) Unwrap() error { return e.err }

// A program that takes longer than runLimit hangs, and is killed; what it has started may
// keep its output open for runGrace.
const (
	runLimit = time.Minute
	runGrace = 5 * time.Second
)

// run executes a program with English messages and returns its output. It ends
// with ctx.
func run(ctx context.Context, stdin, path string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = runGrace
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &execError{filepath.Base(path), stderr.String(), err}
	}
	if finished, ok := ctx.Value(finishedKey{}).(*atomic.Uint64); ok {
		finished.Add(1)
	}
	return stdout.String(), nil
}

// finishedKey has a context know how many programs have come to their end, in an *atomic.Uint64.
type finishedKey struct{}

// RestoreError is a transaction that iptables-restore refused. The rules of the
// table it names are as they were before.
type RestoreError struct {
	Family firewall.Family
	// Table is the table whose part failed, "" if stderr names no line.
	Table string
	// Line is the command that failed, "" if the fault is not of one command.
	Line string
	// Reason is what the program said.
	Reason string
	// Advice is what to do about it, "" if not known.
	Advice string

	err error
}

// Error says which rule failed, why, and what to do.
func (e *RestoreError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s firewall", e.Family)
	if e.Table != "" {
		fmt.Fprintf(&b, ", table %s", e.Table)
	}
	if e.Line != "" {
		fmt.Fprintf(&b, ", rule %q", e.Line)
	}
	b.WriteString(": " + e.Reason)
	if e.Advice != "" {
		b.WriteString(" (" + e.Advice + ")")
	}
	return b.String()
}

// Unwrap is the fault of the program's run: its exit status or the context's end.
func (e *RestoreError) Unwrap() error { return e.err }

// explain turns the fault of an iptables-restore into words.
func explain(f firewall.Family, variant, text string, failed *execError) error {
	e := &RestoreError{Family: f, Reason: failed.Error(), err: failed.err}
	e.Table, e.Line = failedLine(text, failed.stderr)
	e.Advice = advice(variant, e, failed.stderr)
	return e
}

// failedLine finds the command that stderr complains about. Where only the
// COMMIT is named, because the fault showed at the end of the table, the command
// is the first one with the target that stderr quotes, if any.
func failedLine(text, stderr string) (table, command string) {
	number := regexp.MustCompile(`\bline:? (\d+)`).FindStringSubmatch(stderr)
	if number == nil {
		return "", ""
	}
	n, err := strconv.Atoi(number[1])
	lines := strings.Split(text, "\n")
	if err != nil || n < 1 || n > len(lines) {
		return "", ""
	}
	start := 0
	for i, line := range lines[:n] {
		if name, starts := strings.CutPrefix(line, "*"); starts {
			table, start = name, i
		}
	}
	if command = lines[n-1]; !strings.HasPrefix(command, "-") {
		command = quotedTarget(lines[start:n], stderr)
	}
	return table, command
}

// quotedTarget is the first line with the target that stderr quotes, or "".
func quotedTarget(lines []string, stderr string) string {
	quoted := regexp.MustCompile("[`'](\\w+)'").FindStringSubmatch(stderr)
	if quoted == nil {
		return ""
	}
	for _, line := range lines {
		if strings.Contains(line+" ", " -j "+quoted[1]+" ") {
			return line
		}
	}
	return ""
}

// advice knows the faults that users meet.
func advice(variant string, e *RestoreError, stderr string) string {
	says := func(what string) bool { return strings.Contains(stderr, what) }
	switch {
	case says("incompatible, use 'nft' tool"):
		return "the table was made by nft(8) in a form that iptables can't edit; see \"nft list ruleset\""
	case says("xtables lock"):
		return "another program has held /run/xtables.lock for " + lockWait.String()
	case says("Permission denied"), says("Operation not permitted"):
		return "CAP_NET_ADMIN is needed"
	case says("initialize table"), says("Table does not exist"):
		return fmt.Sprintf("the kernel has no table %s for %s: load the module %s", e.Table, e.Family, tableModule(variant, e))
	case says("load target"), says("load match"), says("does not exist"):
		return "this iptables lacks the extension"
	case says("No such file or directory"), says("No chain/target/match"):
		return missingExtension(e.Line)
	}
	return ""
}

// tableModule names the kernel module of a table.
func tableModule(variant string, e *RestoreError) string {
	switch {
	case variant != variantLegacy:
		return "nf_tables"
	case e.Family == firewall.IPv6:
		return "ip6table_" + e.Table
	}
	return "iptable_" + e.Table
}

// missingExtension names the modules that could be meant when the kernel does
// not know what a rule asks for.
func missingExtension(line string) string {
	found := regexp.MustCompile(` -[mj] (\w+)`).FindAllStringSubmatch(line, -1)
	if len(found) == 0 {
		return ""
	}
	var modules []string
	for _, f := range found {
		if f[1] != "ACCEPT" && f[1] != "RETURN" {
			modules = append(modules, "xt_"+f[1])
		}
	}
	if len(modules) == 0 {
		return ""
	}
	return "is a kernel module missing: " + strings.Join(modules, ", ") + "?"
}
