package env

import (
	"sync"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/dhcpd"
)

// EventKind says what happened.
type EventKind string

// What happens to networks, ports and leases.
const (
	NetworkDefined   EventKind = "network-defined"
	NetworkChanged   EventKind = "network-changed" // state, autostart, last error or conditions
	NetworkUndefined EventKind = "network-undefined"
	PortAdded        EventKind = "port-added"
	PortChanged      EventKind = "port-changed" // addresses
	PortRemoved      EventKind = "port-removed"
	LeaseChanged     EventKind = "lease-changed"

	ConditionsChanged EventKind = "conditions-changed" // of the manager
)

// Event is one thing that happened. Network is set for all that happens to one,
// the rest by kind.
type Event struct {
	Kind    EventKind
	Network api.Network
	Port    *api.Port // PortAdded, PortChanged, PortRemoved
	Lease   Lease     // LeaseChanged
	Change  string    // LeaseChanged: bound, renewed, released, expired or declined
	More    bool      // the next event is there already
}

// Lease is an address that a guest holds.
type Lease struct {
	Interface string // the bridge
	dhcpd.Lease
	PrefixLen int // of the network; all bits where the address is outside of it
}

// Informer is a network that tells what it is now.
type Informer interface{ Info() api.Network }

// news is what is to be told: an event, or a change of a lease, of which there are thousands
// a second. Its event is made for who hears of it, with what the network is then.
type news struct {
	event  *Event // nil for a lease
	of     Informer
	lease  Lease
	change string
}

// leasesTogether is how long a change of a lease waits for others: many come with a boot
// storm, and for each one by itself subscribers would wake while its client waits.
const leasesTogether = 10 * time.Millisecond

// Broker hands every event to every subscriber, in order. A slow subscriber
// delays nobody: its events wait in a queue of its own. Changes of leases come a moment
// later, together.
type Broker struct {
	mu   sync.Mutex
	subs map[*subscription]struct{}
}

type subscription struct {
	mu     sync.Mutex
	wake   *sync.Cond
	queue  []news
	timer  *time.Timer // calls ripen
	armed  bool        // it will
	ripe   bool        // the queue is to be delivered
	closed bool
}

// Subscribe calls f with each event, from one goroutine, until cancel is
// called; cancel waits for a running f, so f must not call it.
func (b *Broker) Subscribe(f func(Event)) (cancel func()) {
	s := &subscription{}
	s.wake = sync.NewCond(&s.mu)
	s.timer = time.AfterFunc(time.Hour, s.ripen)
	s.timer.Stop()
	b.mu.Lock()
	if b.subs == nil {
		b.subs = make(map[*subscription]struct{})
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	var done sync.WaitGroup
	done.Go(func() { s.deliver(f) })
	return func() {
		b.mu.Lock()
		delete(b.subs, s)
		b.mu.Unlock()
		s.close()
		done.Wait()
	}
}

// Publish queues e for every subscriber. It never blocks on one.
func (b *Broker) Publish(e Event) { b.publish(news{event: &e}) }

// PublishLease is Publish of LeaseChanged, of a lease of that network.
func (b *Broker) PublishLease(of Informer, l Lease, change string) {
	b.publish(news{of: of, lease: l, change: change})
}

func (b *Broker) publish(n news) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.add(n)
	}
}

// add queues news.
func (s *subscription) add(n news) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, n)
	switch {
	case n.event != nil:
		s.ripe = true
		s.wake.Signal()
	case !s.armed && !s.ripe:
		s.armed = true
		s.timer.Reset(leasesTogether)
	}
}

// ripen has what is queued delivered.
func (s *subscription) ripen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = false
	s.ripe = len(s.queue) > 0
	s.wake.Signal()
}

func (s *subscription) close() {
	s.mu.Lock()
	s.closed = true
	s.timer.Stop()
	s.mu.Unlock()
	s.wake.Signal()
}

// deliver calls f until the subscription is closed.
func (s *subscription) deliver(f func(Event)) {
	var spare []news // becomes the queue
	for {
		s.mu.Lock()
		for !s.ripe && !s.closed {
			s.wake.Wait()
		}
		last, closed := s.queue, s.closed
		s.queue, s.ripe = spare[:0], false
		s.mu.Unlock()
		if closed {
			return
		}
		tell(last, f)
		clear(last)
		spare = last
	}
}

// tell calls f with the events of all. Of leases of one network that come one after the other
// it is asked once what it is.
func tell(all []news, f func(Event)) {
	var of Informer
	var info api.Network
	for i := range all {
		n := &all[i]
		var e Event
		if n.event != nil {
			e = *n.event
		} else {
			if n.of != of {
				info = n.of.Info()
			}
			e = Event{Kind: LeaseChanged, Network: info, Lease: n.lease, Change: n.change}
		}
		of = n.of
		e.More = i+1 < len(all)
		f(e)
	}
}
