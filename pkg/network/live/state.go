package live

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/change"
	"github.com/vnetd/vnetd/pkg/network/service"
	"github.com/vnetd/vnetd/pkg/network/translate"
)

// active is a network while it is active. It is never changed: another takes its
// place.
type active struct {
	doc *netdef.Network
	// ifindex is the bridge's; 0 where that is the host's and not there, and while the
	// network is being stopped.
	ifindex  int
	services *service.Set     // nil for none
	faults   map[string]error // by the part that fails
}

// transitions are the states that may follow each. A network is adopted from where
// vnetd found it, which may be a start that it had not expected to need. Degraded is
// Active with faults: see state.shown.
var transitions = map[api.State][]api.State{
	api.Inactive: {api.Inactive, api.Starting, api.Active, api.Failed},
	api.Starting: {api.Active, api.Failed},
	api.Active:   {api.Stopping},
	api.Stopping: {api.Inactive, api.Failed},
	api.Failed:   {api.Failed, api.Starting, api.Active, api.Inactive},
}

// state is what a network is, was and will be. Its methods may be called
// concurrently.
type state struct {
	mu   sync.Mutex // guards what follows; held for moments
	is   api.State
	err  error                  // why it failed
	now  atomic.Pointer[active] // nil while inactive; changed by set for who holds mu, read by everybody
	def  *netdef.Network
	last *netdef.Network // what it was last, or its definition: tells of a network that is gone; never nil
	// unread: there is a definition, which can't be used.
	unread bool
	// leftover is of a stop, or an undone start, that could not be completed.
	leftover  *netdef.Network
	gone      bool // neither defined nor active any more: nobody finds it
	autostart bool
	failures  uint64         // of parts, while active
	pending   pending        // what the next start changes, as last asked for
	activity  *atomic.Uint64 // of the environment
}

// set has now be a. The caller holds s.mu.
func (s *state) set(a *active) {
	was := s.now.Swap(a)
	if was == nil || a == nil || was.doc != a.doc || was.ifindex != a.ifindex {
		s.activity.Add(1)
	}
}

// step moves the network to another state for a reason, nil for none. It returns the
// state that it was in, and whether that other may follow it.
func (s *state) step(to api.State, reason error) (from api.State, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from = s.is
	s.is, s.err = to, reason
	if to == api.Inactive || to == api.Failed {
		s.set(nil)
	}
	return from, slices.Contains(transitions[from], to)
}

// shown is the state as the outside sees it. The caller holds s.mu.
func (s *state) shown() api.State {
	if s.is == api.Active && len(s.now.Load().faults) > 0 {
		return api.Degraded
	}
	return s.is
}

// info is what the outside sees of the network.
func (s *state) info(name string) api.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc := s.documentLocked()
	info := api.Network{
		Name: name, State: s.shown(), Autostart: s.autostart,
		Active: s.now.Load() != nil, Persistent: s.def != nil || s.unread, Addresses: make([]netip.Prefix, 0, len(doc.IPs)),
		UUID: doc.UUID, Mode: string(doc.Mode()), Bridge: doc.Bridge.Name, MAC: doc.MAC.String(), MTU: doc.MTU,
	}
	// A transient network that could not be taken down can be stopped again, by
	// clients for which one is active or not there at all.
	info.Active = info.Active || s.leftover != nil && !info.Persistent
	if err := s.failure(); err != nil {
		info.LastError = err.Error()
	}
	info.Parents, info.Uplink = translate.Parents(doc), translate.Uplink(doc)
	for i := range doc.IPs {
		info.Addresses = append(info.Addresses, doc.IPs[i].Prefix())
	}
	return info
}

// failure is what is wrong with the network, nil for nothing. The caller holds s.mu.
func (s *state) failure() error {
	now := s.now.Load()
	if now == nil || len(now.faults) == 0 {
		return s.err
	}
	return errors.Join(slices.AppendSeq([]error{s.err}, maps.Values(now.faults))...)
}

// documentLocked is Document for who holds s.mu.
func (s *state) documentLocked() *netdef.Network {
	if now := s.now.Load(); now != nil {
		return now.doc
	}
	return cmp.Or(s.def, s.last)
}

// present is documentLocked while there is a network; nil once nothing is defined, active
// or left of it. The caller holds s.mu.
func (s *state) present() *netdef.Network {
	if s.now.Load() != nil || s.def != nil || s.unread || s.leftover != nil {
		return s.documentLocked()
	}
	return nil
}

// Document is what the network is, or else will be, or else was.
func (s *state) Document() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documentLocked()
}

// exists is present for who does not hold s.mu.
func (s *state) exists() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present()
}

// activated is the network while it is active, nil while it is not. Each change of a link
// asks all networks.
func (s *state) activated() *active { return s.now.Load() }

// Live is what the network is now, nil while inactive.
func (s *state) Live() *netdef.Network {
	if a := s.activated(); a != nil {
		return a.doc
	}
	return nil
}

// Services are what the network serves now, nil for nothing.
func (s *state) Services() *service.Set {
	if a := s.activated(); a != nil {
		return a.services
	}
	return nil
}

// BridgeIndex is the ifindex of the active network's bridge, 0 for none.
func (s *state) BridgeIndex() int {
	if a := s.activated(); a != nil {
		return a.ifindex
	}
	return 0
}

// setActive makes the network active: step to Active follows.
func (s *state) setActive(a active) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(&a)
	s.last = a.doc
}

// change changes what an active network is, and returns what it was; nil for one that
// is inactive, of which nothing is changed.
func (s *state) change(f func(a *active)) (was *active) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if was = s.now.Load(); was == nil {
		return nil
	}
	next := *was
	f(&next)
	s.set(&next)
	s.last = next.doc
	return was
}

// setFault records that a part of an active network fails, or works again with a nil
// err, and reports whether that is news.
func (s *state) setFault(part string, err error) (news bool) {
	s.change(func(a *active) {
		if err == nil && a.faults[part] == nil {
			return
		}
		news = true
		faults := maps.Clone(a.faults)
		if faults == nil {
			faults = make(map[string]error)
		}
		if delete(faults, part); err != nil {
			faults[part] = err
			s.failures++
		}
		a.faults = faults
	})
	return news
}

// Definition is what the next start will make; nil for a transient network.
func (s *state) Definition() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.def
}

// setDef makes def the definition, nil for none, and reports whether it was another.
func (s *state) setDef(def *netdef.Network) (replaced bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	replaced = s.unread || s.def != def
	s.def, s.last = def, cmp.Or(def, s.last)
	if replaced {
		s.unread = false
	}
	return replaced
}

// setUnread says that the network has a definition, which can't be used.
func (s *state) setUnread() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = s.def == nil
}

// Persistent reports whether the network has a definition, usable or not.
func (s *state) Persistent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.def != nil || s.unread
}

// Definitions lists what the network is and what it will be.
func (s *state) Definitions() []*netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	var defs []*netdef.Network
	for _, d := range []*netdef.Network{s.present(), s.def} {
		if d != nil && !slices.Contains(defs, d) {
			defs = append(defs, d)
		}
	}
	return defs
}

// Inherit gives def what it lacks and the network already has, so that a
// document without them can be defined again and again: the UUID, and, where both
// documents make a bridge, its name and MAC address, and the subnets that def leaves to
// be chosen. What the definition has
// not, the active network may have: guests know their gateway by it.
func (s *state) Inherit(def *netdef.Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	had := []*netdef.Network{s.def}
	now := s.now.Load()
	if now != nil {
		had = append(had, now.doc)
	}
	for _, h := range had {
		if h == nil {
			continue
		}
		def.UUID = cmp.Or(def.UUID, h.UUID)
		if !h.Mode().OwnsBridge() || !def.Mode().OwnsBridge() {
			continue
		}
		def.InheritSubnets(h)
		def.Bridge.Name = cmp.Or(def.Bridge.Name, h.Bridge.Name)
		// That of one which spans hosts is theirs, unless it is to be theirs as the document says.
		joins := def.Span != nil && def.Span.Cluster != "" && now != nil && now.doc.Span == nil
		if def.MAC == nil && (def.Span == nil || joins) {
			def.MAC = h.MAC
		}
	}
}

func (s *state) setAutostart(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.autostart = on
}

// LeftBehind is what a stop, or an undone start, has left of the network; nil for
// nothing.
func (s *state) LeftBehind() *netdef.Network {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leftover
}

// leave records what is left of the network, nil for nothing.
func (s *state) leave(doc *netdef.Network) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leftover = doc
}

// Unfinished is why the network could not be taken down, nil where nothing is left.
func (s *state) Unfinished() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leftover == nil {
		return nil
	}
	return s.err
}

// Standing reports whether something of the network may be in the kernel.
func (s *state) Standing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.Load() != nil || s.leftover != nil || s.is == api.Starting || s.is == api.Stopping
}

// Gone makes the network one that nobody finds.
func (s *state) Gone() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone = true
}

// ended reports whether Gone was called.
func (s *state) ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// documents are what a network is and will be; nil for none.
type documents struct{ live, def *netdef.Network }

// differ reports whether an active network is not what its definition says.
func (d documents) differ() bool {
	return d.live != nil && d.def != nil && !bytes.Equal(d.live.XML(), d.def.XML())
}

// pending is what changes at a network's next start, as last asked for. Documents
// don't change once they are a network's: the same two differ in the same.
type pending struct {
	documents
	changes []string
}

// Pending lists what of an active network its next start will change: how its
// definition differs from what it is. It is empty for any other network.
func (s *state) Pending() []string {
	s.mu.Lock()
	p, now := s.pending, documents{def: s.def}
	if a := s.now.Load(); a != nil {
		now.live = a.doc
	}
	s.mu.Unlock()
	if p.documents == now {
		return slices.Clone(p.changes)
	}
	p = pending{documents: now}
	if now.differ() {
		lasting := now.live.Clone()
		lasting.DropHeld()
		p.changes = change.Describe(netdef.Diff(lasting, now.def))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = p
	return slices.Clone(p.changes)
}
