package nstest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// WatchedForInput fails the test unless one epoll of this process watches a descriptor, and not
// for room to send, of which the kernel tells with each datagram that has gone (proc_pid_fdinfo(5)).
func WatchedForInput(t *testing.T, fd int) {
	t.Helper()
	all, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	watched := 0
	for _, path := range all {
		text, _ := os.ReadFile(path) // gone: Glob's own
		for line := range strings.Lines(string(text)) {
			var tfd int
			var events uint32
			if n, _ := fmt.Sscanf(line, "tfd: %d events: %x", &tfd, &events); n < 2 || tfd != fd {
				continue
			}
			watched++
			if events&unix.EPOLLOUT != 0 {
				t.Errorf("%s waits for room to send: events %x", path, events)
			}
		}
	}
	if watched != 1 {
		t.Errorf("%d epolls watch the descriptor, want 1", watched)
	}
}
