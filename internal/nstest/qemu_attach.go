package nstest

import (
	"io"
	"net"
)

// AttachGuest drives a guest that somebody else runs, over the Unix socket of its
// serial console: one of the kernel and file system that StartGuest boots. One that
// boots has printed nothing yet; one that is running answers at once. It does not end
// with the test, but Console, Expect and Run are there.
func AttachGuest(t TB, socket string, running bool) *QEMU {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatalf("reaching the console of a guest: %v", err)
	}
	q := &QEMU{stdin: conn, console: newConsole(), done: make(chan struct{})}
	go func() {
		defer close(q.done)
		_, q.err = io.Copy(q.console, conn)
		q.console.end()
	}()
	t.Cleanup(func() {
		_ = conn.Close()
		<-q.done
		if t.Failed() {
			t.Logf("console of %s:\n%s", socket, q.Console())
		}
	})
	if running {
		if err := q.Wake(); err != nil {
			t.Fatalf("waking a guest: %v", err)
		}
	}
	return q
}

// Wake has a guest that boots nowhere, because it came from another QEMU, say that it is
// ready.
func (q *QEMU) Wake() error {
	_, err := io.WriteString(q.stdin, "c0 echo GUEST ready\n")
	return err
}
