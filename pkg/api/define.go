package api

// Apply says what of a definition an active network becomes at once. The rest is
// pending until its next start.
type Apply string

// The ways to apply a definition.
const (
	ApplyHarmless Apply = "harmless" // what cuts no guest off; also the zero value
	ApplySpan     Apply = "span"     // what cuts no guest off, and whether the network spans hosts
	ApplyAll      Apply = "all"      // everything, with a restart of the network where it takes one
	ApplyNothing  Apply = "none"
)

// DefineOptions say how a definition is taken. The zero value lets a document
// without a UUID replace the network of its name.
type DefineOptions struct {
	New    bool // a network that is known already is refused
	Strict bool // a network is known by its UUID alone, as with libvirt: without one, its name must be free
	Apply  Apply
}

// Action is what became of a network that was defined.
type Action string

// The actions.
const (
	ActionDefined   Action = "defined" // it had no definition
	ActionChanged   Action = "changed"
	ActionUnchanged Action = "unchanged"
	ActionApplied   Action = "applied" // it is unchanged, and something of it that was pending is in force now
)

// Defined is a network after a definition.
type Defined struct {
	Network Network
	Action  Action
	Changes []string // of the definition it had, or of what it was without one, or where that was applied; a line for each element
	Pending []string // of what it is, at its next start
}
