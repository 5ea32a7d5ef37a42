package network

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
)

// Limits bound what one user may have, root excepted. Zero means no limit.
type Limits struct {
	Ports  int // at a time
	Queues int // of all ports together, each with a file descriptor
}

// portSet is every port there is, found by whatever is asked for in a time that
// does not depend on their number. Its methods may be called concurrently and
// wait for nothing.
type portSet struct {
	mu        sync.Mutex
	byUUID    map[string]*port
	byIndex   map[int]*port
	byIfName  map[string]*port
	byMAC     map[[6]byte][]*port // one a network
	byGuest   map[[6]byte][]*port // by what they learned, one a network
	byName    map[portName][]*port
	byID      map[portID]*port // nil: of a port that is being made
	byNetwork map[*Network]map[*port]struct{}
	byHolder  map[string]map[*port]struct{}
	usage     map[uint32]usage // by owner
}

// portName is a guest's name on one network, in lower case.
type portName struct {
	network *Network
	name    string
}

// portID is the id that an owner gave to a port.
type portID struct {
	owner uint32
	id    string
}

// usage is what an owner has.
type usage struct{ ports, queues int }

func newPortSet() *portSet {
	return &portSet{
		byUUID: make(map[string]*port), byIndex: make(map[int]*port), byIfName: make(map[string]*port),
		byMAC: make(map[[6]byte][]*port), byGuest: make(map[[6]byte][]*port), byName: make(map[portName][]*port), byID: make(map[portID]*port),
		byNetwork: make(map[*Network]map[*port]struct{}), byHolder: make(map[string]map[*port]struct{}),
		usage: make(map[uint32]usage),
	}
}

// admit counts a port that is about to be made, and sets its id aside; dismiss
// must follow where it does not come to be. The error is LimitExceeded, or Busy
// where the owner's port of that id is being made right now.
func (s *portSet) admit(o *PortOptions, limits Limits) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.usage[o.Owner]
	u.ports++
	u.queues += max(o.Queues, 1)
	switch {
	case o.Owner != 0 && limits.Ports != 0 && u.ports > limits.Ports:
		return api.Errorf(api.LimitExceeded, "user %d has %d ports: more are not allowed", o.Owner, limits.Ports)
	case o.Owner != 0 && limits.Queues != 0 && u.queues > limits.Queues:
		return api.Errorf(api.LimitExceeded, "option queues: user %d would have %d in all, and is allowed %d", o.Owner, u.queues, limits.Queues)
	}
	if o.ID != "" {
		key := portID{o.Owner, o.ID}
		if _, taken := s.byID[key]; taken {
			return api.Errorf(api.Busy, "option id: port %q is being made", o.ID)
		}
		s.byID[key] = nil
	}
	s.usage[o.Owner] = u
	return nil
}

// dismiss takes back what admit did.
func (s *portSet) dismiss(o *PortOptions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.discount(o.Owner, max(o.Queues, 1), o.ID)
}

// discount takes a port off the books. s.mu must be locked.
func (s *portSet) discount(owner uint32, queues int, id string) {
	u := s.usage[owner]
	u.ports--
	u.queues -= queues
	s.usage[owner] = u
	if u.ports <= 0 {
		delete(s.usage, owner)
	}
	if id != "" {
		delete(s.byID, portID{owner, id})
	}
}

// add puts an admitted port into the set.
func (s *portSet) add(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.insert(p)
}

// load puts a port of a former vnetd into the set.
func (s *portSet) load(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.usage[p.Owner]
	s.usage[p.Owner] = usage{u.ports + 1, u.queues + p.Queues}
	s.insert(p)
}

func (s *portSet) insert(p *port) {
	s.byUUID[p.UUID], s.byIndex[p.Index], s.byIfName[p.IfName] = p, p, p
	s.byMAC[[6]byte(p.MAC)] = append(s.byMAC[[6]byte(p.MAC)], p)
	if q := onNetwork(s.byGuest[[6]byte(p.MAC)], p.network); q != nil {
		s.unlearn(q) // what a launcher says stands before what was learned
	}
	if len(p.guest) == 6 {
		s.byGuest[[6]byte(p.guest)] = append(s.byGuest[[6]byte(p.guest)], p)
	}
	if p.Name != "" {
		s.byName[p.nameKey()] = append(s.byName[p.nameKey()], p)
	}
	if p.ID != "" {
		s.byID[portID{p.Owner, p.ID}] = p
	}
	put(s.byNetwork, p.network, p)
	if p.Holder != "" {
		put(s.byHolder, p.Holder, p)
	}
}

// remove takes a port out of the set.
func (s *portSet) remove(p *port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byUUID, p.UUID)
	delete(s.byIndex, p.Index)
	if s.byIfName[p.IfName] == p {
		delete(s.byIfName, p.IfName)
	}
	leave(s.byMAC, [6]byte(p.MAC), p)
	if len(p.guest) == 6 {
		leave(s.byGuest, [6]byte(p.guest), p)
	}
	leave(s.byName, p.nameKey(), p)
	take(s.byNetwork, p.network, p)
	take(s.byHolder, p.Holder, p)
	s.discount(p.Owner, p.Queues, p.ID)
	p.tell()
}

// nameKey is the name that the port has on its network.
func (p *port) nameKey() portName { return portName{p.network, strings.ToLower(p.Name)} }

// put, take and leave change indices of several ports under one key.
func put[K comparable](index map[K]map[*port]struct{}, key K, p *port) {
	if index[key] == nil {
		index[key] = make(map[*port]struct{})
	}
	index[key][p] = struct{}{}
}

func take[K comparable](index map[K]map[*port]struct{}, key K, p *port) {
	delete(index[key], p)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

func leave[K comparable](index map[K][]*port, key K, p *port) {
	rest := slices.DeleteFunc(index[key], func(q *port) bool { return q == p })
	if len(rest) == 0 {
		delete(index, key)
		return
	}
	index[key] = rest
}

// uuid finds a port by its UUID in lower case; nil when there is none. So do the
// others by what they are named after.
func (s *portSet) uuid(uuid string) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byUUID[uuid]
}

func (s *portSet) index(index int) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byIndex[index]
}

func (s *portSet) ifname(name string) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byIfName[name]
}

func (s *portSet) id(owner uint32, id string) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byID[portID{owner, id}]
}

// mac finds the port on n whose guest has the address; on any network where n is
// nil.
func (s *portSet) mac(n *Network, mac net.HardwareAddr) *port {
	if len(mac) != 6 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return onNetwork(s.byMAC[[6]byte(mac)], n)
}

// onNetwork is the first of ports that is on n, or the first of all for nil.
func onNetwork(ports []*port, n *Network) *port {
	for _, p := range ports {
		if n == nil || p.network == n {
			return p
		}
	}
	return nil
}

// named finds a port of somebody else on n that has a name.
func (s *portSet) named(n *Network, name string, owner uint32) *port {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.byName[portName{n, strings.ToLower(name)}] {
		if p.Owner != owner {
			return p
		}
	}
	return nil
}

// of lists n's ports, in order of their creation.
func (s *portSet) of(n *Network) []*port {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := make([]*port, 0, len(s.byNetwork[n]))
	for p := range s.byNetwork[n] {
		ports = append(ports, p)
	}
	return inOrder(ports)
}

// count tells how many ports n has.
func (s *portSet) count(n *Network) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byNetwork[n])
}

// all lists every port, in order of their creation.
func (s *portSet) all() []*port {
	s.mu.Lock()
	defer s.mu.Unlock()
	ports := make([]*port, 0, len(s.byUUID))
	for _, p := range s.byUUID {
		ports = append(ports, p)
	}
	return inOrder(ports)
}

// inOrder sorts by ifindex, which only grows.
func inOrder(ports []*port) []*port {
	slices.SortFunc(ports, func(a, b *port) int { return a.Index - b.Index })
	return ports
}

// holders lists who holds ports.
func (s *portSet) holders() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.byHolder))
	for name := range s.byHolder {
		names = append(names, name)
	}
	return names
}

// heldBy lists the ports that a holder has.
func (s *portSet) heldBy(holder string) []*port {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ports []*port
	for p := range s.byHolder[holder] {
		ports = append(ports, p)
	}
	return inOrder(ports)
}

// hold makes holder the one who holds p.
func (s *portSet) hold(p *port, holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	take(s.byHolder, p.Holder, p)
	p.Holder = holder
	put(s.byHolder, holder, p)
}

// lease records that p's guest has an address, or has it no more, and tells
// whether that is new.
func (s *portSet) lease(p *port, a netip.Addr, has bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.left = p.left && !has
	at, had := slices.BinarySearchFunc(p.held, a, netip.Addr.Compare)
	switch {
	case has == had:
		return false
	case has:
		p.held = slices.Insert(p.held, at, a)
	default:
		p.held = slices.Delete(p.held, at, at+1)
	}
	p.tell()
	return true
}

// addresses lists what p's guest has leased, and what is closed when that
// changes, or when the port ends.
func (s *portSet) addresses(p *port) ([]netip.Addr, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(p.held), p.news
}

// tell wakes who waits for news of p. The set's lock is held.
func (p *port) tell() {
	close(p.news)
	p.news = make(chan struct{})
}

// foreignTAP tells whether a link is what a launcher plugged into a bridge by
// itself: QEMU's bridge helper and libvirt give their devices such addresses.
func foreignTAP(l bridge.Link) bool {
	return l.Kind == "tun" && len(l.MAC) == 6 && l.MAC[0] == 0xfe
}

// fail takes note of why p could not be deleted, nil for nothing.
func (s *portSet) fail(p *port, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.failed = err
}

// failure is why p could not be deleted, nil for nothing.
func (s *portSet) failure(p *port) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.failed
}
