package health

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

// Unusable is what can't be used of the files of the store. Its methods may be called
// concurrently, with any lock held.
type Unusable struct {
	mu          sync.Mutex
	definitions map[string]*store.Fault // by the name of the network
	states      []*store.Fault
}

// SetDefinitions takes note of the definitions that were found unusable just now.
func (u *Unusable) SetDefinitions(faults []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.definitions = make(map[string]*store.Fault)
	for _, f := range faults {
		u.definitions[f.Stem] = f
	}
}

// SetStates does so for run-state.
func (u *Unusable) SetStates(faults []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.states = faults
}

// Definition is what is amiss with the definition of that name, nil for nothing.
func (u *Unusable) Definition(name string) *store.Fault {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.definitions[name]
}

// Replaced forgets what was amiss: the definition was written anew, or deleted.
func (u *Unusable) Replaced(name string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.definitions, name)
}

// list is all of it, the definitions in order of name.
func (u *Unusable) list() (definitions, states []*store.Fault) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, f := range u.definitions {
		definitions = append(definitions, f)
	}
	slices.SortFunc(definitions, func(a, b *store.Fault) int { return strings.Compare(a.Stem, b.Stem) })
	return definitions, slices.Clone(u.states)
}

// Refuse refuses a new network that would take the name or the UUID of a definition
// which can't be read now, and which may be mended. The document of that network itself
// is as good as mending it.
func (u *Unusable) Refuse(doc *netdef.Network) error {
	definitions, _ := u.list()
	for _, f := range definitions {
		sameName, sameUUID := f.Stem == doc.Name, f.UUID != "" && strings.EqualFold(f.UUID, doc.UUID)
		switch {
		case sameName && !sameUUID:
			return api.Errorf(api.Exists, "network/name: network %q has a definition that can't be used: mend or delete %s, then reload: %v", doc.Name, f.Path, f.Err)
		case sameUUID && !sameName:
			return api.Errorf(api.Conflict, "network/uuid: %q is that of the definition %s, which can't be used: mend or delete it, then reload: %v", doc.UUID, f.Path, f.Err)
		}
	}
	return nil
}

// Definition is what there is of a network whose definition can't be used.
type Definition struct {
	Kept   bool   // it is known as it was read before
	Active bool   // the network is
	Gone   string // the path where there is no file any more; empty: there is one
}

// Source is the source of the files that can't be used. of finds what there is of the
// networks: those whose file is gone, and any by their names.
func (u *Unusable) Source(of func() map[string]Definition) Source {
	return Source{"files", func(context.Context) ([]api.Condition, error) {
		definitions, states := u.list()
		networks := of()
		var all []api.Condition
		told := make(map[string]bool)
		for _, f := range definitions {
			told[f.Stem] = true
			all = append(all, unusableDefinition(f, networks[f.Stem]))
		}
		for name, n := range networks {
			if n.Gone != "" && !told[name] {
				all = append(all, unusableDefinition(&store.Fault{Stem: name, Path: n.Gone, Err: fs.ErrNotExist}, n))
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
	}}
}

// unusableDefinition is the condition of one definition.
func unusableDefinition(f *store.Fault, n Definition) api.Condition {
	c := api.Condition{
		Kind: "definition-unusable", Severity: api.SeverityWarning, Evidence: f.Error(), Remedy: remedyFor(f), Networks: []string{f.Stem},
		Message: fmt.Sprintf("the definition of network %q can't be used: the network does not start", f.Stem),
	}
	switch {
	case n.Kept:
		c.Message = fmt.Sprintf("the definition of network %q can't be used: it stays as it was read before", f.Stem)
	case n.Active:
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
