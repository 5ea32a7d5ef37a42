package api

import (
	"errors"
	"fmt"
)

// Kind is the sort of failure that an error is: the last part of its name on
// D-Bus, org.vnetd1.Error.<Kind>.
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

// KindOf returns the kind of the *Error in err, and false where there is none.
func KindOf(err error) (Kind, bool) {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind, true
	}
	return "", false
}
