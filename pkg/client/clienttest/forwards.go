package clienttest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/godbus/dbus/v5"
)

// forward is one forward. Server.mu guards it.
type forward struct {
	network                      *network
	protocol, ports, address, to string
	toPort                       uint16
	from                         []string
	lifetime                     string
}

// AddForward takes what vnetd takes, and knows no guest: all forwards wait.
func (s networkObject) AddForward(msg dbus.Message, options map[string]dbus.Variant) (path dbus.ObjectPath, err *dbus.Error) {
	err = s.onNetwork(msg, "AddForward", func(n *network) *dbus.Error {
		f := &forward{network: n, protocol: "tcp", lifetime: "persistent"}
		into := map[string]any{
			"protocol": &f.protocol, "ports": &f.ports, "address": &f.address, "to": &f.to, "to_port": &f.toPort, "from": &f.from, "lifetime": &f.lifetime,
		}
		for key, value := range options {
			if into[key] == nil {
				return errorf("Invalid", "option %q is not known", key)
			}
			if err := dbus.Store([]any{value.Value()}, into[key]); err != nil {
				return errorf("Invalid", "option %q: %v", key, err)
			}
		}
		for _, other := range s.forwards {
			if other.network == n && other.protocol == f.protocol && other.ports == f.ports && other.address == f.address {
				return errorf("Exists", "%s/%s of network %q leads to %s already", f.protocol, f.ports, n.doc.Name, other.to)
			}
		}
		f.complete()
		uuid := s.uuid()
		s.forwards[uuid] = f
		path = objectPath("forward", uuid)
		return nil
	})
	return path, err
}

// complete says what was left out.
func (f *forward) complete() {
	if f.toPort == 0 {
		_, _ = fmt.Sscanf(f.ports, "%d", &f.toPort)
	}
	for i, from := range f.from {
		if a, err := netip.ParseAddr(from); err == nil {
			f.from[i] = netip.PrefixFrom(a, a.BitLen()).String()
		}
	}
}

func (s forwardObject) Release(msg dbus.Message) *dbus.Error {
	return s.onForward(msg, "Release", func(uuid string, _ *forward) { delete(s.forwards, uuid) })
}

func (s forwardObject) Describe(msg dbus.Message) (text string, err *dbus.Error) {
	err = s.onForward(msg, "Describe", func(uuid string, f *forward) {
		all := map[string]any{"uuid": uuid, "connections": 3}
		for key, value := range f.properties() {
			all[strings.ToLower(key)] = value.Value()
		}
		all["to_port"] = f.toPort
		raw, _ := json.Marshal(all)
		text = string(raw)
	})
	return text, err
}

// CountForwards tells what Describe tells of each forward.
func (s manager) CountForwards() (string, *dbus.Error) {
	if err := s.enter("CountForwards"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []map[string]any{}
	for _, uuid := range sortedKeys(s.forwards) {
		all = append(all, map[string]any{"uuid": uuid, "connections": 3, "packets": 40, "bytes": 5000})
	}
	raw, _ := json.Marshal(all)
	return string(raw), nil
}

// onForward calls do with the forward that the message is for. s.mu is locked then.
func (s forwardObject) onForward(msg dbus.Message, method string, do func(uuid string, f *forward)) *dbus.Error {
	if err := s.enter(method); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	uuid := uuidOf(pathOf(msg))
	f := s.forwards[uuid]
	if f == nil {
		return errorf("NotFound", "the forward is gone")
	}
	do(uuid, f)
	return nil
}

// properties are those of the interface.
func (f *forward) properties() map[string]dbus.Variant {
	state := "waiting"
	if f.network.running == "" {
		state = "inactive"
	}
	all := make(map[string]dbus.Variant)
	for key, value := range map[string]any{
		"Network": f.network.doc.Name, "Protocol": f.protocol, "Ports": f.ports, "Address": f.address, "To": f.to, "ToPort": f.toPort,
		"From": append([]string{}, f.from...), "Lifetime": f.lifetime, "Port": "", "State": state, "Targets": []string{},
	} {
		all[key] = dbus.MakeVariant(value)
	}
	return all
}
