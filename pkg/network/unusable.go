package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// unusable is what can't be used of the files of the store. Its methods may be called
// concurrently, with any lock held.
type unusable struct {
	mu          sync.Mutex
	definitions map[string]*store.Fault // by the name of the network
	states      []*store.Fault
}

// setDefinitions takes note of the definitions that were found unusable just now.
func (u *unusable) setDefinitions(faults []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.definitions = make(map[string]*store.Fault)
	for _, f := range faults {
		u.definitions[f.Stem] = f
	}
}

// setStates does so for run-state.
func (u *unusable) setStates(faults []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.states = faults
}

// definition is what is amiss with the definition of that name, nil for nothing.
func (u *unusable) definition(name string) *store.Fault {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.definitions[name]
}

// replaced forgets what was amiss: the definition was written anew, or deleted.
func (u *unusable) replaced(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.definitions, name)
}

// list is all of it, the definitions in order of name.
func (u *unusable) list() (definitions, states []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range u.definitions {
		definitions = append(definitions, f)
	}
	slices.SortFunc(definitions, func(a, b *store.Fault) int { return strings.Compare(a.Stem, b.Stem) })
	return definitions, slices.Clone(u.states)
}

// refuse refuses a new network that would take the name or the UUID of a definition
// which can't be read now, and which may be mended. The document of that network itself
// is as good as mending it.
func (u *unusable) refuse(doc *netdef.Network) error {
	definitions, _ := u.list()
	for _, f := range definitions {
		sameName, sameUUID := f.Stem == doc.Name, f.UUID != "" && strings.EqualFold(f.UUID, doc.UUID)
		switch {
		case sameName && !sameUUID:
			return api.Errorf(api.Exists, "network/name: network %q has a definition that can't be used: mend or delete %s, then reload: %w", doc.Name, f.Path, f.Err)
		case sameUUID && !sameName:
			return api.Errorf(api.Conflict, "network/uuid: %q is that of the definition %s, which can't be used: mend or delete it, then reload: %w", doc.UUID, f.Path, f.Err)
		}
	}
	return nil
}

// notFound says that no network has that name, and why it has none where a definition
// is there.
func (m *Manager) notFound(name string) error {
	if f := m.unusable.definition(name); f != nil {
		return api.Errorf(api.NotFound, "network %q is not known: its definition can't be used: mend %s, then reload: %w", name, f.Path, f.Err)
	}
	return api.Errorf(api.NotFound, "network %q does not exist", name)
}

// setUnread says that the network has a definition, which can't be used.
func (n *Network) setUnread() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unread = n.def == nil
}

// persistent tells whether the network has a definition, usable or not.
func (n *Network) persistent() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.def != nil || n.unread
}

// lastRead is what an inactive network was last whose definition can't be used, or which
// could not be taken down; nil for another. The caller holds n.mu.
func (n *Network) lastRead() *netdef.Network {
	if n.live == nil && n.def == nil && (n.unread || n.leftover != nil) {
		return n.last
	}
	return nil
}

// noDefinition is the reason why a network that has none can't start.
func (n *Network) noDefinition() error {
	if n.persistent() {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew", n.name, n.m.cfg.Store.DefinitionPath(n.name))
	}
	return api.Errorf(api.InvalidState, "network %q is transient: it can't be started again", n.name)
}

// readable refuses to change a definition whose file an admin has changed to something
// that can't be read: it would be lost.
func (n *Network) readable() error {
	if f := n.m.unusable.definition(n.name); f != nil {
		return api.Errorf(api.InvalidState, "network %q: its definition can't be used: mend %s, then reload, or define it anew: %w", n.name, f.Path, f.Err)
	}
	if n.definition() == nil && n.persistent() {
		return n.noDefinition()
	}
	return nil
}

// unusableConditions are the files that can't be used.
func (m *Manager) unusableConditions(context.Context) ([]api.Condition, error) {
	definitions, states := m.unusable.list()
	var all []api.Condition
	told := make(map[string]bool)
	for _, f := range definitions {
		told[f.Stem] = true
		all = append(all, m.unusableDefinition(f))
	}
	for _, n := range m.all() {
		if n.definition() == nil && n.persistent() && !told[n.name] {
			path := m.cfg.Store.DefinitionPath(n.name)
			all = append(all, m.unusableDefinition(&store.Fault{Stem: n.name, Path: path, Err: fs.ErrNotExist}))
		}
	}
	for _, f := range states {
		if _, err := os.Lstat(f.Path); errors.Is(err, fs.ErrNotExist) {
			continue // somebody removed it
		}
		all = append(all, api.Condition{
			Kind: "state-unusable", Severity: api.SeverityWarning, Evidence: f.Error(), Remedy: remedyFor(f),
			Message: fmt.Sprintf("what a former vnetd wrote down in %s can't be used", f.Path),
		})
	}
	return all, nil
}

// unusableDefinition is the condition of one definition.
func (m *Manager) unusableDefinition(f *store.Fault) api.Condition {
	c := api.Condition{
		Kind: "definition-unusable", Severity: api.SeverityWarning, Evidence: f.Error(), Remedy: remedyFor(f), Networks: []string{f.Stem},
		Message: fmt.Sprintf("the definition of network %q can't be used: the network does not start", f.Stem),
	}
	switch n := m.find(f.Stem); {
	case n == nil:
	case n.definition() != nil:
		c.Message = fmt.Sprintf("the definition of network %q can't be used: it stays as it was read before", f.Stem)
	case n.liveNetwork() != nil:
		c.Message = fmt.Sprintf("the definition of network %q can't be used: it stays as it is until it stops, and does not start again", f.Stem)
	}
	return c
}

// remedyFor is the command that shows, or mends, why a file can't be used.
func remedyFor(f *store.Fault) string {
	switch {
	case errors.Is(f.Err, fs.ErrPermission):
		return fmt.Sprintf("chown --reference=%s %s && chmod u+rwX %s && systemctl reload vnetd", filepath.Dir(f.Path), f.Path, f.Path)
	case errors.Is(f.Err, fs.ErrNotExist):
		return fmt.Sprintf("vnetctl cat %s > %s && systemctl reload vnetd", f.Stem, f.Path)
	case store.Passing(f.Err):
		return "prlimit --pid $(pidof vnetd)"
	case filepath.Ext(f.Path) == ".xml":
		return fmt.Sprintf("$EDITOR %s && vnetd --check && systemctl reload vnetd", f.Path)
	}
	return "rm " + f.Path
}
