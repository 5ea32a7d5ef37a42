package network

import (
	"errors"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/netdef"
)

// KindOf returns the kind of err: that of the *api.Error in it, Invalid for faults
// in a definition, Conflict for a clash with another network, by its reason for an
// update that can't be applied, Internal otherwise.
func KindOf(err error) api.Kind {
	if kind, ok := api.KindOf(err); ok {
		return kind
	}
	if _, ok := errors.AsType[netdef.Faults](err); ok {
		return api.Invalid
	}
	if _, ok := errors.AsType[*netdef.Conflict](err); ok {
		return api.Conflict
	}
	for _, r := range []struct {
		reason error
		kind   api.Kind
	}{
		{netdef.ErrNoEntry, api.NotFound},
		{netdef.ErrEntryExists, api.Exists},
		{netdef.ErrAmbiguous, api.Invalid},
		{netdef.ErrUnsupported, api.Unsupported},
	} {
		if errors.Is(err, r.reason) {
			return r.kind
		}
	}
	return api.Internal
}
