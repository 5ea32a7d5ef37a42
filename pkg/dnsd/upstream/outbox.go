package upstream

import (
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/pkg/dnsd/mmsg"
)

// outboxSize is the number of questions that leave with one call.
const outboxSize = 32

// Outbox has questions that are asked together, from one of a server's sockets that is
// picked by chance, with one call. It is for one goroutine. Its zero value is empty.
//
// To a server at a loopback address, questions of the same length go as one message that the
// kernel cuts into datagrams where it arrives: most of what it does for a datagram, rules among it,
// it then does once. It is not left to network cards, some of which can't cut datagrams as short as
// these.
type Outbox struct {
	n        int
	picked   bool
	at       int // slot
	asked    [outboxSize]*attempt
	vectors  [outboxSize]unix.Iovec
	out      [outboxSize]mmsg.Message
	first    [outboxSize + 1]int // of out: of asked, where its questions begin; and where those of the last end
	segments [outboxSize]mmsg.Segments
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
	to := o.asked[start].server
	to.queries.Add(uint64(end - start))
	n := 0
	for at := start; at < end; n++ {
		next := at + 1
		if to.addr.Addr().IsLoopback() {
			next = o.alike(at, end)
		}
		o.put(n, at, next)
		at = next
	}
	o.first[n] = end
	o.asked[start].socket.conn.SendAll(o.out[:n], o.fail)
}

// alike returns the end of the questions from start up to end, all of which leave from one
// socket, that are as long as the first; a shorter one may be the last of them.
func (o *Outbox) alike(start, end int) int {
	for at := start + 1; at < end; at++ {
		if got, want := o.vectors[at].Len, o.vectors[start].Len; got < want {
			return at + 1
		} else if got > want {
			return at
		}
	}
	return end
}

// put makes the i-th message of the questions from start up to end.
func (o *Outbox) put(i, start, end int) {
	m := &o.out[i]
	m.Header = unix.Msghdr{Iov: &o.vectors[start]}
	m.Header.SetIovlen(end - start)
	if end > start+1 {
		m.Cut(&o.segments[i], int(o.vectors[start].Len))
	}
	o.first[i] = start
}

// fail notes that the i-th message could not be sent. Of several questions each is sent for
// itself.
func (o *Outbox) fail(i int, err error) {
	all := o.asked[o.first[i]:o.first[i+1]]
	for _, t := range all {
		if len(all) > 1 {
			err = t.socket.conn.Send(t.query)
		}
		if err != nil {
			t.inFlight.queries.client.deliver(&t.pending, answer{err: err}, nil)
		}
	}
}
