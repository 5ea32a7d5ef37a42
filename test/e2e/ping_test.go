package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/vnetd/vnetd/internal/nstest"
)

// answer is a line of ping(8) for a packet that was answered. Busybox counts packets from 0, iputils from 1.
var answer = regexp.MustCompile(`(?m)^\d+ bytes from .* (icmp_)?seq=(\d+) `)

// lossless is an error where ping, which printed out, lost a packet or had no answer at all. Those
// that it sent after the last one that was answered were on their way when it was ended.
func lossless(out string) error {
	answers := answer.FindAllStringSubmatch(out, -1)
	if len(answers) == 0 {
		return fmt.Errorf("no packet was answered:\n%s", out)
	}
	first, last := 0, 0
	if answers[0][1] != "" {
		first = 1
	}
	answered := make(map[int]bool)
	for _, a := range answers {
		n, err := strconv.Atoi(a[2])
		if err != nil {
			return err
		}
		answered[n], last = true, max(last, n)
	}
	var lost []int
	for n := first; n <= last; n++ {
		if !answered[n] {
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("packets %v were lost:\n%s", lost, out[max(0, len(out)-1000):])
	}
	return nil
}

// counting is a guest that pings an address without end.
type counting struct {
	l    *spanLab
	cmd  *exec.Cmd
	file *os.File
}

// counts begins it.
func (l *spanLab) counts(guest *nstest.NS, address string) *counting {
	l.Helper()
	file, err := os.Create(filepath.Join(l.TempDir(), "ping"))
	if err != nil {
		l.Fatal(err)
	}
	c := &counting{l: l, cmd: guest.Command(l.Context(), "ping", "-i", "0.01", address), file: file}
	c.cmd.Stdout = file
	if err := c.cmd.Start(); err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { _ = file.Close() })
	return c
}

// printed is what it printed so far.
func (c *counting) printed() string {
	c.l.Helper()
	out, err := os.ReadFile(c.file.Name())
	if err != nil {
		c.l.Fatal(err)
	}
	return string(out)
}

// end ends it: packets are answered still, and none was lost before.
func (c *counting) end(what string) {
	c.l.Helper()
	before := len(answer.FindAllString(c.printed(), -1))
	nstest.Eventually(c.l, spanLimit, "packets are answered "+what, func() error {
		if n := len(answer.FindAllString(c.printed(), -1)); n < before+3 {
			return fmt.Errorf("%d were before, %d are", before, n)
		}
		return nil
	})
	_ = c.cmd.Process.Signal(os.Interrupt) // ip executes ping in its own place
	_ = c.cmd.Wait()
	if err := lossless(c.printed()); err != nil {
		c.l.Errorf("%s: %v", what, err)
	}
}

func TestLossless(t *testing.T) {
	const (
		busybox = "64 bytes from 203.0.113.1: seq=%d ttl=63 time=1.084 ms\n"
		iputils = "64 bytes from 203.0.113.1: icmp_seq=%d ttl=64 time=0.032 ms\n"
		summary = "\n--- 203.0.113.1 ping statistics ---\n5 packets transmitted, 3 packets received, 40% packet loss\n"
	)
	for _, tt := range []struct {
		line    string
		numbers []int
		ok      bool
	}{
		{busybox, []int{0, 1, 2}, true},
		{busybox, []int{1, 2}, false},
		{busybox, []int{0, 1, 3}, false},
		{busybox, []int{0, 2, 1, 1}, true},
		{iputils, []int{1, 2, 3}, true},
		{iputils, []int{2, 3}, false},
		{iputils, []int{1, 3}, false},
		{iputils, nil, false},
		{"From 203.0.113.2 icmp_seq=%d Destination Host Unreachable\n", []int{1, 2}, false},
	} {
		out := "PING 203.0.113.1 (203.0.113.1) 56(84) bytes of data.\n"
		for _, n := range tt.numbers {
			out += fmt.Sprintf(tt.line, n)
		}
		if err := lossless(out + summary); (err == nil) != tt.ok {
			t.Errorf("%q of %v: %v", tt.line, tt.numbers, err)
		}
	}
}
