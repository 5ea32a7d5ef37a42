package cluster

// Disk keeps what a member knows while vnetd is down, so that it can start while the store
// is away, and does not give what it may have given away.
type Disk interface {
	// Save keeps what has changed, before it returns.
	Save(Saving) error
}

// Saving is what has changed since the last one.
type Saving struct {
	All      bool // Events are all that there is: what was kept before goes
	Store    uint64
	Revision int64
	Events   []Event

	// Doubt is what is about to be asked of the store, and takes the place of what was kept
	// as such.
	Doubt []Op
}

// Saved is what a Disk has kept.
type Saved struct {
	Store    uint64
	Revision int64
	Keys     map[string]KV
	Doubt    []Op
}

// Take is what a Disk has after a Saving.
func (s *Saved) Take(c Saving) {
	if c.All || s.Keys == nil {
		s.Keys = make(map[string]KV, len(c.Events))
	}
	for _, e := range c.Events {
		if e.Deleted {
			delete(s.Keys, e.Key)
		} else {
			s.Keys[e.Key] = e.KV
		}
	}
	s.Store, s.Revision, s.Doubt = c.Store, c.Revision, c.Doubt
}
