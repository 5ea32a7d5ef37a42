package libvirtrpc

import (
	"sync"

	"github.com/vnetd/vnetd/internal/quota"
)

// maxQueued is how many bytes may wait for a client to read them. A reply waits
// for room; an event that finds none cuts the client off.
const maxQueued = 1 << 20

// queue is what a client still has to read, in order.
type queue struct {
	mu     sync.Mutex
	change *sync.Cond // frames or closed have changed
	frames [][]byte
	size   int // of frames, in bytes
	closed bool
	user   *quota.User // who is to read it
}

func newQueue(u *quota.User) *queue {
	q := &queue{user: u}
	q.change = sync.NewCond(&q.mu)
	return q
}

// put adds a frame, when there is room for it. Where too much waits on other
// connections of the same user, it closes the queue instead.
func (q *queue) put(frame []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.size > maxQueued && !q.closed {
		q.change.Wait()
	}
	q.add(frame)
}

// offer adds a frame, unless there is no room for it: then it returns false.
func (q *queue) offer(frame []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.size > maxQueued {
		return false
	}
	q.add(frame)
	return true
}

// add is put with q.mu held. A closed queue takes nothing more.
func (q *queue) add(frame []byte) {
	switch {
	case q.closed:
		return
	case !q.user.Keep(len(frame)):
		q.closed = true
		q.change.Broadcast()
		return
	}
	q.frames, q.size = append(q.frames, frame), q.size+len(frame)
	q.change.Broadcast()
}

// next waits for frames and returns them all; nil once the queue is closed and
// empty.
func (q *queue) next() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed {
		q.change.Wait()
	}
	frames := q.frames
	q.frames = nil
	return frames
}

// sent makes room for what was written.
func (q *queue) sent(bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.size -= bytes
	q.user.Release(bytes)
	q.change.Broadcast()
}

// drop ends a queue that nobody reads any more.
func (q *queue) drop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.user.Release(q.size)
	q.closed, q.frames, q.size = true, nil, 0
	q.change.Broadcast()
}

// close ends the queue: what is in it is still sent.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.change.Broadcast()
}
