package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Kind is the class of a failure: the last part of vnetd's D-Bus error name.
// A Kind is itself an error, to be the target of errors.Is. A vnetd that is
// newer than this package may report kinds that are not listed here.
type Kind string

// Error returns the kind as one word.
func (k Kind) Error() string { return string(k) }

// The kinds of failures. All but ErrNotRunning are names that vnetd sends.
const (
	// ErrNotFound: there is no such network or port.
	ErrNotFound Kind = "NotFound"
	// ErrExists: the name, UUID or port id is already in use.
	ErrExists Kind = "Exists"
	// ErrInvalid: an argument or the XML does not make sense.
	ErrInvalid Kind = "Invalid"
	// ErrInvalidState: the network is active, or inactive, and must not be.
	ErrInvalidState Kind = "InvalidState"
	// ErrConflict: a bridge name, subnet, MAC or address is taken by another
	// network, another guest or the host.
	ErrConflict Kind = "Conflict"
	// ErrBusy: another operation is at work on it, or it is in use.
	ErrBusy Kind = "Busy"
	// ErrDenied: the caller may not do that.
	ErrDenied Kind = "Denied"
	// ErrLimitExceeded: a limit of the caller or of the network is reached.
	ErrLimitExceeded Kind = "LimitExceeded"
	// ErrUnsupported: this vnetd or this kernel cannot do that.
	ErrUnsupported Kind = "Unsupported"
	// ErrInternal: vnetd failed, or sent what the API does not allow.
	ErrInternal Kind = "Internal"
	// ErrNotRunning: nobody answers for vnetd, or the bus cannot be reached.
	ErrNotRunning Kind = "NotRunning"
)

// errTimeout is the bus's word for a wait that was in vain.
const errTimeout Kind = "Timeout"

// Error is a failure reported by vnetd or by the bus.
type Error struct {
	// Kind is never empty.
	Kind Kind
	// Message is for a person: one sentence without a final stop. It may
	// have several lines when vnetd found several faults in a definition.
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind, so that errors.Is(err, ErrNotFound) holds.
func (e *Error) Unwrap() error { return e.Kind }

// Error names of vnetd and of the bus.
const (
	vnetdErrors = "org.vnetd1.Error."
	busErrors   = "org.freedesktop.DBus.Error."
)

// convertError makes an *Error of what a D-Bus call returned. The end of a
// context stays what it is. A nil err gives nil.
func convertError(err error) error {
	var reply dbus.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("waiting for vnetd: %w", err)
	case errors.As(err, &reply):
		return convertReply(reply)
	}
	return &Error{Kind: ErrNotRunning, Message: fmt.Sprintf("the connection to the system bus broke: %v", err)}
}

// convertReply makes an *Error of an error reply.
func convertReply(reply dbus.Error) *Error {
	message := replyMessage(reply)
	if kind, ok := strings.CutPrefix(reply.Name, vnetdErrors); ok && kind != "" {
		return &Error{Kind: Kind(kind), Message: message}
	}
	switch strings.TrimPrefix(reply.Name, busErrors) {
	case "ServiceUnknown", "NameHasNoOwner":
		return &Error{Kind: ErrNotRunning, Message: "vnetd is not running"}
	case "Disconnected", "NoReply":
		return &Error{Kind: ErrNotRunning, Message: "vnetd went away before it answered"}
	case "AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired":
		return &Error{Kind: ErrDenied, Message: "access denied: " + message}
	case "UnknownObject":
		return &Error{Kind: ErrNotFound, Message: message}
	case "UnknownMethod", "UnknownInterface", "UnknownProperty", "NotSupported":
		return &Error{Kind: ErrUnsupported, Message: "this vnetd cannot do that: " + message}
	case "InvalidArgs":
		return &Error{Kind: ErrInvalid, Message: message}
	case "Timeout":
		return &Error{Kind: errTimeout, Message: message}
	case "LimitsExceeded":
		return &Error{Kind: ErrLimitExceeded, Message: message}
	}
	return &Error{Kind: ErrInternal, Message: message}
}

// replyMessage returns the text of an error reply, or its name if it has none.
func replyMessage(reply dbus.Error) string {
	if len(reply.Body) > 0 {
		if text, ok := reply.Body[0].(string); ok && text != "" {
			return text
		}
	}
	return reply.Name
}

// badReply reports an answer of vnetd that is not what the API says.
func badReply(method string, err error) error {
	return &Error{Kind: ErrInternal, Message: fmt.Sprintf("vnetd gave an unexpected answer to %s: %v", method, err)}
}
