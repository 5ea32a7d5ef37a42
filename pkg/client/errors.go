package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vnetd/vnetd/pkg/api"

	"github.com/godbus/dbus/v5"
)

// errTimeout is the bus's word for a wait that was in vain.
const errTimeout api.Kind = "Timeout"

// Error is a failure reported by vnetd or by the bus.
type Error struct {
	// Kind is never empty. A newer vnetd may report kinds that api does not list.
	Kind api.Kind
	// Message is for a person: one sentence without a final stop. It may
	// have several lines when vnetd found several faults in a definition.
	Message string
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the kind, so that errors.Is(err, api.NotFound) holds.
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
	return &Error{Kind: api.NotRunning, Message: fmt.Sprintf("the connection to the system bus broke: %v", err)}
}

// convertReply makes an *Error of an error reply.
func convertReply(reply dbus.Error) *Error {
	message := replyMessage(reply)
	if kind, ok := strings.CutPrefix(reply.Name, vnetdErrors); ok && kind != "" {
		return &Error{Kind: api.Kind(kind), Message: message}
	}
	switch strings.TrimPrefix(reply.Name, busErrors) {
	case "ServiceUnknown", "NameHasNoOwner":
		return &Error{Kind: api.NotRunning, Message: "vnetd is not running"}
	case "Disconnected", "NoReply":
		return &Error{Kind: api.NotRunning, Message: "vnetd went away before it answered"}
	case "AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired":
		return &Error{Kind: api.Denied, Message: "access denied: " + message}
	case "UnknownObject":
		return &Error{Kind: api.NotFound, Message: message}
	case "UnknownMethod", "UnknownInterface", "UnknownProperty", "NotSupported":
		return &Error{Kind: api.Unsupported, Message: "this vnetd cannot do that: " + message}
	case "InvalidArgs":
		return &Error{Kind: api.Invalid, Message: message}
	case "Timeout":
		return &Error{Kind: errTimeout, Message: message}
	case "LimitsExceeded":
		return &Error{Kind: api.LimitExceeded, Message: message}
	}
	return &Error{Kind: api.Internal, Message: message}
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
	return &Error{Kind: api.Internal, Message: fmt.Sprintf("vnetd gave an unexpected answer to %s: %v", method, err)}
}
