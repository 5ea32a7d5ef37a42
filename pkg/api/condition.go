package api

import (
	"cmp"
	"slices"
	"time"
)

// Severity says how bad a condition is. A later vnetd may know more of them.
type Severity string

// The severities, the worst last.
const (
	SeverityInfo    Severity = "info"    // nobody suffers; to know when something else changes
	SeverityWarning Severity = "warning" // something is not as it was meant, or soon will be
	SeverityError   Severity = "error"   // guests are cut off, or vnetd can't do its work
)

// rank orders severities, the worst first.
func (s Severity) rank() int {
	return slices.Index([]Severity{SeverityError, SeverityWarning, SeverityInfo}, s)
}

// Condition is something on this host, commonly not of vnetd's making, that keeps
// guests from what their networks promise.
type Condition struct {
	// Kind is a stable word, as drop-policy or disk-full; docs/dbus.md lists them.
	Kind     string   `json:"kind"`
	Severity Severity `json:"severity"`
	// Networks are the names of those concerned, in order; empty: the whole host.
	Networks []string `json:"networks"`
	// Message is one sentence, Evidence what shows it, Remedy the command that
	// would put it right, empty where there is none.
	Message  string    `json:"message"`
	Evidence string    `json:"evidence"`
	Remedy   string    `json:"remedy"`
	Since    time.Time `json:"since"`
}

// Compare orders conditions: the worst first, then by kind, networks, evidence.
func (c Condition) Compare(o Condition) int {
	return cmp.Or(
		cmp.Compare(c.Severity.rank(), o.Severity.rank()),
		cmp.Compare(c.Kind, o.Kind),
		slices.Compare(c.Networks, o.Networks),
		cmp.Compare(c.Evidence, o.Evidence),
	)
}

// Same reports whether two are one condition, seen at different times.
func (c Condition) Same(o Condition) bool {
	return c.Kind == o.Kind && c.Evidence == o.Evidence && slices.Equal(c.Networks, o.Networks)
}
