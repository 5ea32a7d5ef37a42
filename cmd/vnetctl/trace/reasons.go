package trace

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// instances is where the kernel's trace buffers of its users are (tracefs).
const instances = "/sys/kernel/tracing/instances"

// reasons are why the kernel dropped packets that came in by one link: by tracepoint
// skb:kfree_skb, which has reasons as of Linux 5.17.
type reasons struct {
	dir, link, bridge string
	pipe              int           // descriptor of the buffer
	done              chan struct{} // closed when listen ends

	mu    sync.Mutex
	mine  map[string]time.Time // by the packet's place in memory, when it came
	count map[string]int       // by reason
}

// openReasons has the kernel tell of a link. The buffer is this process's own: others are
// not disturbed.
func openReasons(link, bridge string) (*reasons, error) {
	if _, err := os.Stat(instances); err != nil {
		return nil, errors.New("tracefs is not mounted at /sys/kernel/tracing")
	}
	removeStale()
	r := &reasons{link: link, bridge: bridge, mine: make(map[string]time.Time), count: make(map[string]int), done: make(chan struct{})}
	err := r.open()
	for range 20 {
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = r.open() // another process took it for one left behind
	}
	if err == nil {
		err = r.enable()
	}
	if err != nil {
		r.remove()
		return nil, err
	}
	return r, nil
}

// open makes the buffer and opens it, which keeps it from being taken for one left behind.
func (r *reasons) open() (err error) {
	r.dir = filepath.Join(instances, fmt.Sprintf("%s.%d.%d", tableName, os.Getpid(), time.Now().UnixNano()))
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		return err
	}
	r.pipe, err = unix.Open(filepath.Join(r.dir, "trace_pipe"), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	return err
}

// enable has the kernel write to the buffer. The pipe is closed where it does not.
func (r *reasons) enable() error {
	for _, event := range []string{"net/netif_receive_skb", "skb/kfree_skb"} {
		if err := os.WriteFile(filepath.Join(r.dir, "events", event, "enable"), []byte("1"), 0); err != nil {
			return errors.Join(err, unix.Close(r.pipe))
		}
	}
	return nil
}

// removeStale removes the buffers of processes that were killed: those in use can't be.
func removeStale() {
	dirs, _ := filepath.Glob(filepath.Join(instances, tableName+".*"))
	for _, dir := range dirs {
		_ = unix.Rmdir(dir)
	}
}

// remove removes the buffer, whose pipe is closed.
func (r *reasons) remove() {
	for range 50 {
		if err := unix.Rmdir(r.dir); err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// listen reads what the kernel tells until ctx ends.
func (r *reasons) listen(ctx context.Context) {
	defer close(r.done)
	defer func() { _ = unix.Close(r.pipe) }()
	lines := bufio.NewScanner(pipe{ctx, r.pipe})
	for lines.Scan() {
		r.note(lines.Text())
	}
}

// pipe reads a descriptor that does not wait, until its context ends.
type pipe struct {
	ctx context.Context
	fd  int
}

// Read waits some milliseconds at a time: trace_pipe wakes no poller of its own accord.
func (p pipe) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(p.fd, b)
		switch {
		case n > 0:
			return n, nil
		case err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR):
			return 0, err
		case p.ctx.Err() != nil:
			return 0, p.ctx.Err()
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// The lines of the two tracepoints.
var (
	receivedLine = regexp.MustCompile(`netif_receive_skb: dev=(\S+) skbaddr=(\S+)`)
	freedLine    = regexp.MustCompile(`kfree_skb: skbaddr=(\S+) .*reason: (\S+)`)
)

// noReason is what the kernel says of most that is only done with.
const noReason = "NOT_SPECIFIED"

// heldFor is how long a packet may wait in the kernel: its place in memory may be
// another's after that.
const heldFor = 5 * time.Second

// note reads one line.
func (r *reasons) note(line string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := receivedLine.FindStringSubmatch(line); m != nil {
		_, known := r.mine[m[2]]
		switch {
		case m[1] == r.link:
			r.mine[m[2]] = time.Now()
		case known && m[1] != r.bridge:
			delete(r.mine, m[2]) // another packet at the same place
		}
		return
	}
	if m := freedLine.FindStringSubmatch(line); m != nil {
		if at, mine := r.mine[m[1]]; mine && time.Since(at) < heldFor {
			delete(r.mine, m[1])
			if m[2] != noReason {
				r.count[m[2]]++
			}
		}
	}
}
