package port

import "github.com/vnetd/vnetd/pkg/api"

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
