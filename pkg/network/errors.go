package network

import (
	"errors"
	"fmt"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Kind says what sort of failure an error is, in the words of the D-Bus API:
// org.vnetd1.Error.<Kind>.
type Kind string

// The kinds. Internal is what is not the caller's doing.
const (
	NotFound      Kind = "NotFound"
	Exists        Kind = "Exists"
	Invalid       Kind = "Invalid"
	InvalidState  Kind = "InvalidState"
	Conflict      Kind = "Conflict"
	Busy          Kind = "Busy"
	Denied        Kind = "Denied"
	LimitExceeded Kind = "LimitExceeded"
	Unsupported   Kind = "Unsupported"
	Internal      Kind = "Internal"
)

// Error is a failure of a known kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind; the format is fmt.Errorf's.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{kind, fmt.Errorf(format, args...)}
}

// KindOf tells the kind of err: that of the *Error in it, Invalid for faults in
// a definition, Conflict for a clash with another network, by its reason for an
// update that can't be applied, Internal otherwise.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	if _, ok := errors.AsType[netdef.Faults](err); ok {
		return Invalid
	}
	if _, ok := errors.AsType[*netdef.Conflict](err); ok {
		return Conflict
	}
	if kind, ok := updateKind(err); ok {
		return kind
	}
	return Internal
}
