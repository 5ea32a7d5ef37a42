package dbusapi

import (
	"strings"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/network"
)

// learn notes what there is, so that subscribers are told only what changes from now on, until
// cancel is called. Clients by other ways than the bus may be at work meanwhile: what they
// change is told once all is noted.
func (t tree) learn() (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	cancel = t.cfg.Manager.Subscribe(t.onEvent)
	for path, ifaces := range t.managedObjects() {
		for _, values := range ifaces {
			t.known[path] = values
		}
	}
	m := t.manager()
	t.known[rootPath] = m.values()
	return cancel
}

// onEvent tells the bus what happened. It runs in one goroutine, in order.
func (t tree) onEvent(e network.Event) {
	t.mu.Lock()
	defer t.mu.Unlock()
	netPath := t.networkPath(e.Network.UUID)
	switch e.Kind {
	case network.NetworkDefined, network.NetworkChanged:
		if n, err := t.cfg.Manager.ByUUID(e.Network.UUID); err == nil {
			t.update(netPath, t.network(n))
			t.tellForwards(n)
		}
	case network.NetworkUndefined:
		t.remove(netPath, networkInterface)
		t.dropForwards(e.Network.Name, nil)
		if n, err := t.cfg.Manager.ByUUID(e.Network.UUID); err == nil { // renamed, or defined again before this was told
			t.update(netPath, t.network(n))
			t.tellForwards(n)
		}
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
		t.addLease(netPath, e.Change, &e.Lease)
	}
	if !e.More || t.leases.Len() > signalsAtOnce {
		t.flush()
	}
}

// tellForwards tells what is new of the forwards of a network. t.mu must be locked.
func (t tree) tellForwards(n *network.Network) {
	there := make(map[dbus.ObjectPath]bool)
	for _, f := range t.cfg.Manager.Forwards().On(n) {
		path := pathOf(forwardPaths, f.UUID)
		there[path] = true
		t.update(path, t.forward(f))
	}
	t.dropForwards(n.Name(), there)
}

// dropForwards tells that forwards of a network are gone but for some. t.mu must be locked.
func (t tree) dropForwards(networkName string, but map[dbus.ObjectPath]bool) {
	for path, values := range t.known {
		if strings.HasPrefix(string(path), string(forwardPaths)) && !but[path] && values["Network"].Value() == networkName {
			t.remove(path, forwardInterface)
		}
	}
}
