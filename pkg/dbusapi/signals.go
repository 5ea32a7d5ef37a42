package dbusapi

import (
	"log/slog"
	"reflect"
	"sync"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/internal/sysbus"
	"github.com/vnetd/vnetd/pkg/network"
)

// announcer tells the bus what has changed of its objects.
type announcer struct {
	conn *sysbus.Conn
	log  *slog.Logger

	mu sync.Mutex
	// known is what the bus has been told of each object, by path; guarded by mu.
	known  map[dbus.ObjectPath]map[string]dbus.Variant
	leases sysbus.Signals  // to be sent; guarded by mu
	uuid   string          // of the network of the last event; guarded by mu
	path   dbus.ObjectPath // of that network; guarded by mu
}

// signalsAtOnce is how many bytes of signals wait at most for those that are to come.
const signalsAtOnce = 64 << 10

// networkPath is the path of the network with a UUID. Most events in a row are of one. a.mu must
// be locked.
func (a *announcer) networkPath(uuid string) dbus.ObjectPath {
	if a.uuid != uuid {
		a.uuid, a.path = uuid, pathOf(networkPaths, uuid)
	}
	return a.path
}

// addLease tells of a lease when no more events are there, or many. It adds what busLease
// returns, without making strings of it. a.mu must be locked.
func (a *announcer) addLease(path dbus.ObjectPath, change string, l *network.Lease) {
	b := &a.leases
	b.Add(path, networkInterface+".LeaseChanged", "s"+leaseSignature)
	b.String(change)
	b.Struct()
	b.String(l.Interface)
	b.Int64(busExpiry(l))
	var number [20]byte
	kind, iaid, id := appendIdentity(number[:0], l)
	var room [128]byte // for all but the longest
	b.Uint32(kind)
	b.Text(appendColons(room[:0], l.MAC))
	b.Text(iaid)
	b.Text(l.Addr.AppendTo(room[:0]))
	b.Uint32(uint32(l.PrefixLen))
	b.String(l.Hostname)
	b.Text(appendColons(room[:0], id))
	b.End()
}

// flush sends the signals of leases that wait. a.mu must be locked.
func (a *announcer) flush() {
	if err := a.conn.SendSignals(&a.leases); err != nil {
		a.log.Debug("sending signals", "error", err)
	}
}

// update tells what is new about an object: that it is there, or which of its
// properties have other values than subscribers know. a.mu must be locked.
func (a *announcer) update(path dbus.ObjectPath, i iface) {
	now := i.values()
	before, known := a.known[path]
	a.known[path] = now
	if !known {
		a.introduce(path, map[string]map[string]dbus.Variant{i.name: now})
		return
	}
	changed := make(map[string]dbus.Variant)
	for name, v := range now {
		if !reflect.DeepEqual(before[name].Value(), v.Value()) {
			changed[name] = v
		}
	}
	if len(changed) > 0 {
		a.emit(path, propertiesInterface+".PropertiesChanged", i.name, changed, []string{})
	}
}

// introduce tells that an object is there, with the values of its interface. a.mu must be locked.
func (a *announcer) introduce(path dbus.ObjectPath, ifaces map[string]map[string]dbus.Variant) {
	for _, values := range ifaces {
		a.known[path] = values
	}
	a.emit(rootPath, objectsInterface+".InterfacesAdded", path, ifaces)
}

// remove tells that an object is gone, to those who knew it.
func (a *announcer) remove(path dbus.ObjectPath, ifaceName string) {
	if _, known := a.known[path]; !known {
		return
	}
	delete(a.known, path)
	a.emit(rootPath, objectsInterface+".InterfacesRemoved", path, []string{ifaceName})
}

// emit sends a signal, behind those that wait. a.mu must be locked.
func (a *announcer) emit(path dbus.ObjectPath, name string, values ...any) {
	a.flush()
	if err := a.conn.Emit(path, name, values...); err != nil {
		a.log.Debug("sending a signal", "signal", name, "error", err)
	}
}
