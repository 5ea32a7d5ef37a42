// Package removal deletes links, those together that are to be deleted at the same time.
//
// The kernel waits for RCU with every request to delete links: once for all that the
// request names, and with a bridge once more for that bridge alone, in
// br_multicast_dev_del of net/bridge/br_multicast.c. A wait is commonly 10 to 20 ms, and the
// lock of all links is held meanwhile. So a bridge by itself takes two waits and one of many
// takes one, while links of other kinds take a share of one.
package removal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
)

// Cost is how long the kernel keeps its lock of all links to delete one, in parts of what a
// batch may take.
type Cost int

const (
	Bridge Cost = 8 // it waits for RCU
	Other  Cost = 1
)

// mostCost is that of a batch: 8 bridges or 64 other links, so that nobody else who wants
// something of a link waits for much longer than 200 ms.
const mostCost = 64

// Queue deletes links of one network namespace. Delete is safe for concurrent use.
type Queue struct {
	socket *netlink.Socket

	mu      sync.Mutex
	waiting []*request // guarded by mu

	turn sync.Mutex // held while links are deleted
}

// request is a link that is to be deleted.
type request struct {
	index int
	cost  Cost

	done bool  // guarded by Queue.turn, as is err
	err  error // the outcome
}

// New is a queue for the network namespace of the calling thread. Its socket is its own:
// nothing else shall wait behind a deletion.
func New() (*Queue, error) {
	s, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	return &Queue{socket: s}, nil
}

// Close closes the socket. Delete may not be called any more.
func (q *Queue) Close() { _ = q.socket.Close() }

// Delete deletes the link with that index and returns when it is gone; one that is gone
// already is success. A lone link is deleted at once; those that come meanwhile are deleted
// together.
func (q *Queue) Delete(index int, cost Cost) error {
	r := &request{index: index, cost: cost}
	q.add(r)
	q.turn.Lock()
	defer q.turn.Unlock()
	for !r.done {
		q.carryOut(q.take())
	}
	return r.err
}

func (q *Queue) add(r *request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = append(q.waiting, r)
}

// take removes and returns the requests that one batch may have, in their order.
func (q *Queue) take() []*request {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, cost := 0, Cost(0)
	for n < len(q.waiting) && (n == 0 || cost+q.waiting[n].cost <= mostCost) {
		cost += q.waiting[n].cost
		n++
	}
	taken := q.waiting[:n:n]
	q.waiting = q.waiting[n:]
	return taken
}

// carryOut deletes the links of a batch: together, and by themselves those of which that
// fails, so that each has its own outcome. The caller holds turn.
func (q *Queue) carryOut(batch []*request) {
	alone := batch
	if len(batch) > 1 {
		alone = q.together(batch)
	}
	for _, r := range alone {
		if err := gone(errors.Join(q.socket.Do(deletion(r.index))...)); err != nil {
			r.err = fmt.Errorf("deleting link %d: %w", r.index, err)
		}
	}
	for _, r := range batch {
		r.done = true
	}
}

// together puts the links into a group of their own and deletes that, in one datagram, and
// returns those that may still be there.
func (q *Queue) together(batch []*request) (left []*request) {
	group := netlink.AppendAttribute(nil, unix.IFLA_GROUP, netlink.Uint32(newGroup()))
	var messages [][]byte
	for _, r := range batch {
		messages = append(messages, netlink.NewMessage(unix.RTM_NEWLINK, unix.NLM_F_REQUEST, netlink.LinkHeader(r.index), group))
	}
	messages = append(messages, netlink.NewMessage(unix.RTM_DELLINK, unix.NLM_F_REQUEST, netlink.LinkHeader(0), group))
	errs := q.socket.Do(messages...)
	if errors.Join(errs[len(batch):]...) != nil { // nothing is deleted of a group if one of it can't be
		return batch
	}
	for i, r := range batch {
		if gone(errs[i]) != nil {
			left = append(left, r)
		}
	}
	return left
}

// newGroup is the number of a group in which no link is: there are 2^30 of them, and people
// choose small ones. (net_device.group; 0 is that of all who are in no other.)
func newGroup() uint32 { return 1<<30 | rand.Uint32N(1<<30) }

// deletion is the request that deletes one link.
func deletion(index int) []byte {
	return netlink.NewMessage(unix.RTM_DELLINK, unix.NLM_F_REQUEST, netlink.LinkHeader(index))
}

// gone is err, but nil for that of a link that is not there.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
