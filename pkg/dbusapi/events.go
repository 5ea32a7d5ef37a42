package dbusapi

import "github.com/vnetd/vnetd/pkg/network"

// learn notes what there is, so that subscribers are told only what changes
// from now on.
func (t tree) learn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for path, ifaces := range t.managedObjects() {
		for _, values := range ifaces {
			t.known[path] = values
		}
	}
	m := t.manager()
	t.known[rootPath] = m.values()
}

// onEvent tells the bus what happened. It runs in one goroutine, in order.
func (t tree) onEvent(e network.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	netPath := pathOf(networkPaths, e.Network.UUID)
	switch e.Kind {
	case network.NetworkDefined, network.NetworkChanged:
		if n, err := t.cfg.Manager.ByUUID(e.Network.UUID); err == nil {
			t.update(netPath, t.network(n))
		}
	case network.NetworkUndefined:
		t.remove(netPath, networkInterface)
	case network.PortAdded:
		t.update(pathOf(portPaths, e.Port.UUID), t.port(*e.Port))
	case network.PortChanged:
		if path := pathOf(portPaths, e.Port.UUID); t.known[path] != nil {
			t.update(path, t.port(*e.Port))
		}
	case network.PortRemoved:
		t.remove(pathOf(portPaths, e.Port.UUID), portInterface)
	case network.ConditionsChanged:
		t.update(rootPath, t.manager())
	case network.LeaseChanged:
		t.addLease(netPath, e.Change, busLease(*e.Lease))
	}
	if !e.More || t.leases.Len() > signalsAtOnce {
		t.flush()
	}
}
