package client

import "github.com/vnetd/vnetd/pkg/api"

// What the methods take and return, so that a launcher imports this package alone.
type (
	Kind     = api.Kind
	State    = api.State
	Lease    = api.Lease
	Lifetime = api.Lifetime
	PortInfo = api.Port

	ForwardInfo    = api.Forward
	ForwardOptions = api.ForwardOptions
	ForwardState   = api.ForwardState
	Severity       = api.Severity
	Condition      = api.Condition
)

// The kinds of failures, to be the targets of errors.Is.
const (
	ErrNotFound      = api.NotFound
	ErrExists        = api.Exists
	ErrInvalid       = api.Invalid
	ErrInvalidState  = api.InvalidState
	ErrConflict      = api.Conflict
	ErrBusy          = api.Busy
	ErrDenied        = api.Denied
	ErrLimitExceeded = api.LimitExceeded
	ErrUnsupported   = api.Unsupported
	ErrInternal      = api.Internal
	ErrNotRunning    = api.NotRunning
)

// The states of a network.
const (
	StateInactive = api.Inactive
	StateStarting = api.Starting
	StateActive   = api.Active
	StateDegraded = api.Degraded
	StateStopping = api.Stopping
	StateFailed   = api.Failed
)

// The states of a forward.
const (
	ForwardActive   = api.ForwardActive
	ForwardWaiting  = api.ForwardWaiting
	ForwardInactive = api.ForwardInactive
)

// The lifetimes of a port, and of a forward.
const (
	LifetimeFD         Lifetime = api.LifetimeFD
	LifetimeBus        Lifetime = api.LifetimeBus
	LifetimePersistent Lifetime = api.LifetimePersistent
	LifetimeExternal   Lifetime = api.LifetimeExternal
	LifetimePort       Lifetime = api.LifetimePort
)
