package main

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// truth is what is known: what was acknowledged is so, or is not; where an answer was lost,
// it may be either.
type truth int

const (
	no truth = iota
	yes
	maybe
)

func (t truth) String() string { return []string{"no", "yes", "maybe"}[t] }

// after is what is known of something that was to become want, by the error.
func (t truth) after(want truth, err error) truth {
	switch {
	case err == nil || t == want:
		return want
	case definite(err):
		return t
	}
	return maybe
}

// is reports whether t may be that.
func (t truth) is(want bool) bool { return t == maybe || (t == yes) == want }

// netBook is what is known of a network.
type netBook struct {
	name, bridge    string
	defined, active truth
	words           []string // of which its document has one
	stray           int      // ports at most that may have been made although nobody was told
}

// portBook is what is known of a port that was handed out.
type portBook struct {
	uuid, network, ifname string
	state                 truth
}

// leaseBook is a lease that was acknowledged.
type leaseBook struct {
	mac, hostname string
	until         time.Time
}

// leaseKey is an address of a network: another network may have it as well.
type leaseKey struct {
	network string
	addr    netip.Addr
}

// books are what all clients were told. Its methods may be called concurrently.
type books struct {
	mu       sync.Mutex
	networks map[string]*netBook  // by name
	ports    map[string]*portBook // by UUID
	leases   map[leaseKey]leaseBook
	done     map[string]int // what was acknowledged
	refused  map[string]int // errors, without what is different in each
	wrong    []error        // what was found
}

func newBooks() *books {
	return &books{
		networks: make(map[string]*netBook), ports: make(map[string]*portBook), leases: make(map[leaseKey]leaseBook),
		done: make(map[string]int), refused: make(map[string]int),
	}
}

// mostFound is how many findings are told.
const mostFound = 20

// fault notes what must not be.
func (b *books) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.wrong) < mostFound {
		b.wrong = append(b.wrong, fmt.Errorf(time.Now().Format("15:04:05.000 ")+format, args...))
	}
}

// found joins all that was found.
func (b *books) found() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.wrong...)
}

// individual is what makes the same error another text.
var individual = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f:]{17}|[0-9]+`)

// note counts one act of a client, and its outcome.
func (b *books) note(act string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		b.done[act]++
		return
	}
	b.refused[act+": "+individual.ReplaceAllString(err.Error(), "#")]++
}

// counts tells what was acknowledged so far.
func (b *books) counts() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return counted(b.done)
}

func counted(m map[string]int) string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s %d", key, m[key]))
	}
	return strings.Join(all, ", ")
}

// refusals tells of all that was not acknowledged, the most frequent first.
func (b *books) refusals() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := slices.Collect(maps.Keys(b.refused))
	slices.SortFunc(all, func(x, y string) int { return b.refused[y] - b.refused[x] })
	var text strings.Builder
	for _, one := range all {
		_, _ = fmt.Fprintf(&text, "  %5d  %s\n", b.refused[one], one)
	}
	return text.String()
}

// network is the book of the network of that name.
func (b *books) network(name string) *netBook {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.networks[name]
	if n == nil {
		n = &netBook{name: name, bridge: "v" + name}
		b.networks[name] = n
	}
	return n
}

// port notes a port that was handed out.
func (b *books) port(p portBook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if other := b.ports[p.uuid]; other != nil {
		b.wrong = append(b.wrong, fmt.Errorf("port %s was handed out twice", p.uuid))
	}
	b.ports[p.uuid] = &p
}

// endPort notes that the owner of a port has ended it, as far as err tells.
func (b *books) endPort(uuid string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch p := b.ports[uuid]; {
	case err == nil:
		delete(b.ports, uuid)
	case p != nil:
		p.state = p.state.after(no, err)
	}
}

// endPorts notes what becomes of all ports of a network that ends.
func (b *books) endPorts(network string, state truth) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uuid, p := range b.ports {
		switch {
		case p.network != network:
		case state == no:
			delete(b.ports, uuid)
		default:
			p.state = state
		}
	}
}

// portsOn lists those ports of a network that are known to be there.
func (b *books) portsOn(network string) (uuids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uuid, p := range b.ports {
		if p.network == network && p.state == yes {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	return uuids
}

// lease notes an acknowledged lease; nobody else may have the address.
func (b *books) lease(network string, addr netip.Addr, l leaseBook) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := leaseKey{network, addr}
	if other, held := b.leases[key]; held && other.mac != l.mac && time.Now().Before(other.until) {
		b.wrong = append(b.wrong, fmt.Errorf("%s on %s is given to %s and %s has it until %v", addr, network, l.mac, other.mac, other.until))
	}
	b.leases[key] = l
}

// endLease notes that a guest gives its address up.
func (b *books) endLease(network string, addr netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.leases, leaseKey{network, addr})
}
