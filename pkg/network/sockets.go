package network

import (
	"context"
	"sync"
	"time"
)

// leaveLimit is how long services may take, at their end, to answer what they have
// been asked.
const leaveLimit = time.Second

// leave leaves the sockets of all services to the next vnetd.
func (m *Manager) leave() {
	if m.cfg.Sockets == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), leaveLimit)
	defer cancel()
	var all sync.WaitGroup
	for _, n := range m.all() {
		all.Go(func() { n.runningServices().Leave(ctx) })
	}
	all.Wait()
}
