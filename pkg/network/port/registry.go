package port

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
)

// Registry is every port there is. Its methods may be called concurrently and wait
// for nothing but where they say so.
type Registry struct {
	mu       sync.Mutex // guards what follows
	index    index
	accounts accounts
	making   map[string]bool // UUIDs of ports that have a device and are not in index yet
}

// NewRegistry returns a registry without a port.
func NewRegistry() *Registry {
	return &Registry{index: newIndex(), accounts: make(accounts), making: make(map[string]bool)}
}

// Limits bound what one user may have, root excepted. Zero means no limit.
type Limits struct {
	Ports  int // at a time
	Queues int // of all ports together, each with a file descriptor
}

// usage is what an owner has.
type usage struct{ ports, queues int }

// accounts are what each owner has, by uid.
type accounts map[uint32]usage

// Admit counts a port that is about to be made, and sets its id aside; Dismiss
// must follow where it does not come to be. The error is LimitExceeded, or Busy
// where the owner's port of that id is being made right now.
func (r *Registry) Admit(o *Spec, limits Limits) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.accounts.count(o, limits); err != nil {
		return err
	}
	if o.ID == "" {
		return nil
	}
	key := idKey{o.Owner, o.ID}
	if _, taken := r.index.byID[key]; taken {
		r.accounts.discount(o)
		return api.Errorf(api.Busy, "option id: port %q is being made", o.ID)
	}
	r.index.byID[key] = nil
	return nil
}

// Dismiss takes back what Admit did.
func (r *Registry) Dismiss(o *Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.accounts.discount(o)
	delete(r.index.byID, idKey{o.Owner, o.ID})
}

// count puts a port on its owner's account.
func (a accounts) count(o *Spec, limits Limits) error {
	u := a[o.Owner]
	u.ports++
	u.queues += max(o.Queues, 1)
	switch {
	case o.Owner != 0 && limits.Ports != 0 && u.ports > limits.Ports:
		return api.Errorf(api.LimitExceeded, "user %d has %d ports: more are not allowed", o.Owner, limits.Ports)
	case o.Owner != 0 && limits.Queues != 0 && u.queues > limits.Queues:
		return api.Errorf(api.LimitExceeded, "option queues: user %d would have %d in all, and is allowed %d", o.Owner, u.queues, limits.Queues)
	}
	a[o.Owner] = u
	return nil
}

// discount takes a port off its owner's account.
func (a accounts) discount(o *Spec) {
	u := a[o.Owner]
	u.ports--
	u.queues -= max(o.Queues, 1)
	a[o.Owner] = u
	if u.ports <= 0 {
		delete(a, o.Owner)
	}
}

// Add puts an admitted port of vnetd's own into the registry.
func (r *Registry) Add(p *Port) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.insert(p)
	delete(r.making, p.UUID)
}

// load puts a port that nobody admitted into the registry. The error is Exists where
// its UUID is taken, LimitExceeded where its owner has as many as limits allow.
func (r *Registry) load(p *Port, limits Limits) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index.byUUID[strings.ToLower(p.UUID)] != nil {
		return api.Errorf(api.Exists, "network port %s exists already", p.UUID)
	}
	if p.Kind != Orphan {
		if err := r.accounts.count(&p.Spec, limits); err != nil {
			return err
		}
	}
	r.index.insert(p)
	return nil
}

// Remove takes a port out of the registry.
func (r *Registry) Remove(p *Port) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.index.remove(p)
	if p.Kind != Orphan {
		r.accounts.discount(&p.Spec)
		p.tell()
	}
}

// Move makes p a port of the network of that name, which takes the place of its own, and
// returns it as that; nil where p has ended.
func Move(p *Port, network string) *Port {
	r := p.reg
	moved := newPort(r, p.Kind, network, p.Record())
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.index.byUUID[strings.ToLower(p.UUID)] != p {
		return nil
	}
	moved.Spec, moved.status, moved.document = p.Spec, p.status, p.document
	r.index.remove(p)
	r.index.insert(moved)
	p.tell()
	return moved
}

func (r *Registry) has(p *Port) bool { return r.UUID(p.UUID) == p }

// UUID finds a port by its UUID in any case; nil when there is none. So do the
// others by what they are named after.
func (r *Registry) UUID(uuid string) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.byUUID[strings.ToLower(uuid)]
}

// Index finds the port whose device has the ifindex.
func (r *Registry) Index(index int) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.byIndex[index]
}

// Find finds a port by its UUID or the name of its device.
func (r *Registry) Find(key string) *Port {
	if p := r.UUID(key); p != nil {
		return p
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.byIfName[key]
}

// ID finds the port that an owner gave the id to.
func (r *Registry) ID(owner uint32, id string) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.index.byID[idKey{owner, id}]
}

// MAC finds a port on the network, on any for "", that was made for a card with the
// address.
func (r *Registry) MAC(network string, mac net.HardwareAddr) *Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	key, ok := macKey(mac)
	if !ok {
		return nil
	}
	return on(r.index.byMAC[key], network)
}

// Named lists the ports on the network that have a name, as their own or as an alias.
func (r *Registry) Named(network, name string) []*Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.index.byName[nameKey{network, strings.ToLower(name)}])
}

// On lists the network's ports of some kinds, one kind after the other, in order of
// their creation.
func (r *Registry) On(network string, kinds ...Kind) []*Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ports []*Port
	for _, k := range kinds {
		ports = slices.AppendSeq(ports, maps.Keys(r.index.byNetwork[networkKey{network, k}]))
	}
	slices.SortFunc(ports, compare)
	return ports
}

// Ruled lists the network's ports of kind Own that have rules of their own, in order of their
// creation.
func Ruled(r *Registry, network string) []*Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	ruled := r.index.ruled[network]
	if len(ruled) == 0 {
		return nil // asked with each lease
	}
	return slices.SortedFunc(maps.Keys(ruled), compare)
}

// Count is how many ports of some kinds the network has.
func (r *Registry) Count(network string, kinds ...Kind) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range kinds {
		n += len(r.index.byNetwork[networkKey{network, k}])
	}
	return n
}

// All lists the ports of some kinds as On does, on any network.
func (r *Registry) All(kinds ...Kind) []*Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ports []*Port
	for key, on := range r.index.byNetwork {
		if slices.Contains(kinds, key.kind) {
			ports = slices.AppendSeq(ports, maps.Keys(on))
		}
	}
	slices.SortFunc(ports, compare)
	return ports
}

// Holders lists who holds ports of LifetimeBus.
func (r *Registry) Holders() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.index.byHolder))
}

// HeldBy lists the ports that a holder has.
func (r *Registry) HeldBy(holder string) []*Port {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Keys(r.index.byHolder[holder]), compare)
}

// WaitForAddress waits until the guest of the port with that UUID has an address
// leased, and lists what it has. The error is NotFound when the port ends, and
// ctx's when that ends first.
func (r *Registry) WaitForAddress(ctx context.Context, uuid string) ([]netip.Addr, error) {
	for {
		held, news := r.addresses(uuid)
		switch {
		case news == nil:
			return nil, NotFound(uuid)
		case len(held) > 0:
			return held, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		}
	}
}

// addresses lists what the guest of the port with that UUID has leased, and what is
// closed when that changes, or when the port ends; nil where there is no such port.
func (r *Registry) addresses(uuid string) ([]netip.Addr, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.index.byUUID[strings.ToLower(uuid)]
	if p == nil || p.Kind == Orphan {
		return nil, nil
	}
	return slices.Clone(p.status.Held), p.news
}

// NotFound is the error of a port that is not there.
func NotFound(key string) error {
	return api.Errorf(api.NotFound, "no port %q is known here", key)
}
