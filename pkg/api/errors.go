package api

import (
	"errors"
	"fmt"
)

// Kind is the sort of failure that an error is: the last part of its name on
// D-Bus, org.vnetd1.Error.<Kind>. It is itself an error, to be the target of
// errors.Is.
type Kind string

// Error returns the kind as one word.
func (k Kind) Error() string { return string(k) }

// The kinds. All but NotRunning are what vnetd reports.
const (
	NotFound      Kind = "NotFound"      // there is no such network or port
	Exists        Kind = "Exists"        // the name, UUID or port id is already in use
	Invalid       Kind = "Invalid"       // an argument or the XML does not make sense
	InvalidState  Kind = "InvalidState"  // the network is active, or inactive, and must not be
	Conflict      Kind = "Conflict"      // a bridge name, subnet, MAC or address is another's
	Busy          Kind = "Busy"          // another operation is at work on it, or it is in use
	Denied        Kind = "Denied"        // the caller may not do that
	LimitExceeded Kind = "LimitExceeded" // a limit of the caller or of the network is reached
	Unsupported   Kind = "Unsupported"   // this vnetd or this kernel can't do that
	Internal      Kind = "Internal"      // not the caller's doing
	NotRunning    Kind = "NotRunning"    // nobody answers for vnetd, or the bus can't be reached
)

// Error is a failure of a known kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is the error's Kind.
func (e *Error) Is(target error) bool { return target == e.Kind }

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
