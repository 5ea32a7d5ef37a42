package dhcpd

// EventKind says what happened to a lease.
type EventKind int

// The kinds of lease events.
const (
	// Bound: a client got an address that it did not have.
	Bound EventKind = iota + 1
	// Renewed: a client has its address for longer; its host name may have changed.
	Renewed
	// Released: a client gave its address back, or moved to another one.
	Released
	// Expired: a lease ended by time.
	Expired
	// Declined: a client found the address in use by somebody else. The event's
	// lease names the client that declined.
	Declined
)

// String returns the kind's name in lower case.
func (k EventKind) String() string {
	switch k {
	case Bound:
		return "bound"
	case Renewed:
		return "renewed"
	case Released:
		return "released"
	case Expired:
		return "expired"
	case Declined:
		return "declined"
	default:
		return "unknown"
	}
}

// Event tells of a change of one lease that is on disk.
type Event struct {
	Kind EventKind
	// Lease is the record after the change. It belongs to the receiver.
	Lease Lease
}
