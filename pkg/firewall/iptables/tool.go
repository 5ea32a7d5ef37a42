package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/firewall"
)

// lockWait is how long iptables-legacy waits for its lock, /run/xtables.lock.
const lockWait = 5 * time.Second

// tool is one family's programs: iptables or ip6tables with its -save and
// -restore beside it.
type tool struct {
	family  firewall.Family
	command string // iptables or ip6tables as configured
	path    string // where it was found
	variant string // variantNFT or variantLegacy, "" if it does not run
	// missing is why the family can't be used, nil if it can.
	missing error
}

// list reads all tables of the family, with one exec.
func (t *tool) list(ctx context.Context) (listing, error) {
	out, err := run(ctx, "", t.path+"-save")
	if err != nil {
		return nil, fmt.Errorf("listing the %s rules: %w", t.family, err)
	}
	l, err := parseListing(out)
	if err != nil {
		return nil, fmt.Errorf("listing the %s rules: %w", t.family, err)
	}
	return l, nil
}

// apply carries out increments, with one exec. Each table of the text takes
// effect at its COMMIT, as a whole or not at all; after a fault in one the later
// ones are not looked at.
func (t *tool) apply(ctx context.Context, text string) error {
	wait := strconv.Itoa(int(lockWait / time.Second))
	_, err := run(ctx, text, t.path+"-restore", "--noflush", "-w", wait)
	var failed *execError
	if errors.As(err, &failed) {
		return explain(t, text, failed)
	}
	return err
}

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

// run executes a program with English messages and returns its output. It ends
// with ctx.
func run(ctx context.Context, stdin, path string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return "", &execError{filepath.Base(path), stderr.String(), err}
	}
	return stdout.String(), nil
}
