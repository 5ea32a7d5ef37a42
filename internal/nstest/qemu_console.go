package nstest

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"sync"
)

// Bounds of what a console keeps: a guest may print without end.
const (
	maxConsoleLine  = 4096
	maxConsoleLines = 20000
)

// escapes are the terminal sequences that the guest's firmware prints.
var escapes = regexp.MustCompile(`\x1b(\[[0-9;?]*[a-zA-Z]|c)|\r`)

// errConsoleEnded says that the guest is gone: no further line will come.
var errConsoleEnded = errors.New("the guest ended")

// console splits what a guest prints into lines and lets others wait for one.
// It is safe for concurrent use.
type console struct {
	mu      sync.Mutex
	partial []byte
	lines   []string
	dropped int // lines dropped from the front
	ended   bool
	changed chan struct{} // closed at the next change
}

func newConsole() *console { return &console{changed: make(chan struct{})} }

// Write takes what the guest printed. It never fails.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.partial = append(c.partial, p...)
	for {
		line, rest, found := bytes.Cut(c.partial, []byte("\n"))
		if !found && len(c.partial) < maxConsoleLine {
			break
		}
		c.add(line)
		c.partial = rest
	}
	c.partial = bytes.Clone(c.partial)
	return len(p), nil
}

// add appends a line; c.mu is held.
func (c *console) add(line []byte) {
	c.lines = append(c.lines, escapes.ReplaceAllString(string(line), ""))
	if len(c.lines) > maxConsoleLines {
		half := len(c.lines) / 2
		c.lines = append([]string(nil), c.lines[half:]...)
		c.dropped += half
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// end says that nothing more will be written.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.partial) > 0 {
		c.add(c.partial)
		c.partial = nil
	}
	c.ended = true
	close(c.changed)
	c.changed = make(chan struct{})
}

// next is the number of the line that will come next.
func (c *console) next() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dropped + len(c.lines)
}

// from returns the lines from number n on that are still kept, whether there
// will be more, and a channel that is closed when these answers change.
func (c *console) from(n int) (lines []string, ended bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines[min(max(n-c.dropped, 0), len(c.lines)):], c.ended, c.changed
}

// await calls visit with every line from number n on, as they come, until it
// returns true.
func (c *console) await(ctx context.Context, n int, visit func(line string) bool) error {
	for {
		lines, ended, changed := c.from(n)
		n += len(lines)
		for _, line := range lines {
			if visit(line) {
				return nil
			}
		}
		if ended {
			return errConsoleEnded
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// String is the log so far.
func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.lines, "\n") + "\n" + string(c.partial)
}
