package upstream

import (
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/mmsg"
)

// outboxSize is the number of questions that leave with one call.
const outboxSize = 32

// Outbox has questions that are asked together, from one of a server's sockets that is
// picked by chance, with one call. It is for one goroutine. Its zero value is empty.
type Outbox struct {
	n       int
	picked  bool
	at      int // slot
	asked   [outboxSize]*attempt
	out     [outboxSize]mmsg.Message
	vectors [outboxSize]unix.Iovec
}

// slot returns the slot of the sockets from which the questions leave.
func (o *Outbox) slot() int {
	if o == nil {
		return anySlot
	}
	if !o.picked {
		o.at, o.picked = pickSlot(), true
	}
	return o.at
}

// add has t, a first attempt that is prepared, sent by Flush.
func (o *Outbox) add(t *attempt) {
	if o.n == outboxSize {
		o.Flush()
	}
	o.asked[o.n] = t
	v := &o.vectors[o.n]
	v.Base = &t.pending.query[0]
	v.SetLen(len(t.pending.query))
	o.out[o.n].Header.Iov = v
	o.out[o.n].Header.SetIovlen(1)
	o.n++
}

// Flush asks the questions that are there, if there are any. It does not wait: what the
// socket has no room for is asked again as what is lost on the way.
func (o *Outbox) Flush() {
	for start := 0; start < o.n; {
		end := start + 1
		for end < o.n && o.asked[end].socket == o.asked[start].socket {
			end++
		}
		o.send(start, end)
		start = end
	}
	clear(o.asked[:o.n])
	for i := range o.vectors[:o.n] {
		o.vectors[i].Base = nil
	}
	o.n, o.picked = 0, false
}

// send sends the questions from start up to end, all from one socket.
func (o *Outbox) send(start, end int) {
	for _, t := range o.asked[start:end] {
		t.server.queries.Add(1)
	}
	o.asked[start].socket.conn.SendAll(o.out[start:end], func(i int, err error) { o.fail(start+i, err) })
}

// fail notes that the i-th question could not be sent.
func (o *Outbox) fail(i int, err error) {
	t := o.asked[i]
	t.inFlight.queries.client.deliver(&t.pending, answer{err: err}, nil)
}
