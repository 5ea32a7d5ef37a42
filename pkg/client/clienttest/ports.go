package clienttest

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// port is one port. Server.mu guards it.
type port struct {
	network              *network
	name, mac, ifname    string
	lifetime             string
	addresses, aliases   []string
	files                []*os.File
	queues               uint32
	vnetHdr, isolated    bool
	callerID, machineUID string
	owner                uint32
}

// Requests returns the options of all calls of RequestPort, with the network
// under "network", in their order.
func (s *Server) Requests() []map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]map[string]any(nil), s.requests...)
}

// PortFile returns the first file of the port with the device name, or nil. It
// is the server's: it must not be closed.
func (s *Server) PortFile(ifname string) *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.ports {
		if p.ifname == ifname {
			return p.files[0]
		}
	}
	return nil
}

// RequestPort holds the files open in the port: the reply, which carries them,
// is written after this function returns.
func (s manager) RequestPort(name string, options map[string]dbus.Variant) (
	path dbus.ObjectPath, fds []dbus.UnixFD, info map[string]dbus.Variant, failure *dbus.Error,
) {
	s.note(name, options)
	if err := s.enter("RequestPort"); err != nil {
		return "", nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.anyName(name)
	if n == nil {
		return "", nil, nil, errorf("NotFound", "no network has the name, UUID or bridge %q", name)
	}
	if n.running == "" {
		return "", nil, nil, errorf("InvalidState", "network %q is not active", n.doc.Name)
	}
	p, failure := s.newPort(n, options)
	if failure != nil {
		return "", nil, nil, failure
	}
	uuid := s.uuid()
	s.ports[uuid] = p
	for _, file := range p.files {
		fds = append(fds, dbus.UnixFD(file.Fd()))
	}
	return objectPath("port", uuid), fds, map[string]dbus.Variant{
		"mac":    dbus.MakeVariant(p.mac),
		"ifname": dbus.MakeVariant(p.ifname),
		"bridge": dbus.MakeVariant(n.doc.Bridge.Name),
		"parent": dbus.MakeVariant(""),
		"mode":   dbus.MakeVariant(""),

		"mtu":     dbus.MakeVariant(uint32(1500)),
		"network": dbus.MakeVariant(n.doc.Name),
		"uuid":    dbus.MakeVariant(uuid),

		"host_reach": dbus.MakeVariant(true),
	}, nil
}

// note keeps the request for Requests.
func (s *Server) note(name string, options map[string]dbus.Variant) {
	request := map[string]any{"network": name}
	for key, value := range options {
		request[key] = value.Value()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, request)
}

// newPort checks the options and opens the port's files. s.mu must be locked.
func (s *Server) newPort(n *network, options map[string]dbus.Variant) (*port, *dbus.Error) {
	p := &port{network: n, lifetime: "fd", queues: 1, owner: Owner}
	into := map[string]any{
		"name": &p.name, "mac": &p.mac, "ifname": &p.ifname, "queues": &p.queues, "vnet_hdr": &p.vnetHdr,
		"isolated": &p.isolated, "id": &p.callerID, "lifetime": &p.lifetime, "owner_uuid": &p.machineUID, "owner_uid": &p.owner,
		"address": &p.addresses, "aliases": &p.aliases, "forwards": new([]map[string]dbus.Variant),
	}
	for key, value := range options {
		if into[key] == nil {
			return nil, errorf("Invalid", "unknown option %q", key)
		}
		if err := dbus.Store([]any{value.Value()}, into[key]); err != nil {
			return nil, errorf("Invalid", "option %q: %v", key, err)
		}
	}
	if !slices.Contains([]string{"fd", "bus", "persistent"}, p.lifetime) {
		return nil, errorf("Invalid", "lifetime %q is not known", p.lifetime)
	}
	for _, other := range s.ports {
		if other.mac == p.mac {
			return nil, errorf("Conflict", "MAC address %s is in use by port %s", p.mac, other.ifname)
		}
	}
	p.ifname = cmp.Or(p.ifname, fmt.Sprintf("vnet%d", len(s.ports)))
	p.mac = cmp.Or(p.mac, fmt.Sprintf("00:00:5e:00:53:%02x", len(s.ports)+1))
	if err := p.open(s.openPort); err != nil {
		return nil, errorf("Internal", "opening the port's files: %v", err)
	}
	return p, nil
}

// RegisterPort takes a port whose device is another's: it has no files.
func (s networkObject) RegisterPort(msg dbus.Message, text string, _ uint32) (path dbus.ObjectPath, full string, err *dbus.Error) {
	err = s.onNetwork(msg, "RegisterPort", func(n *network) *dbus.Error {
		var doc struct {
			UUID  string `xml:"uuid"`
			Owner struct {
				Name string `xml:"name"`
				UUID string `xml:"uuid"`
			} `xml:"owner"`
			MAC struct {
				Address string `xml:"address,attr"`
			} `xml:"mac"`
		}
		switch fault := xml.Unmarshal([]byte(text), &doc); {
		case fault != nil:
			return errorf("Invalid", "%v", fault)
		case n.running == "":
			return errorf("InvalidState", "network %q is not active", n.doc.Name)
		case s.ports[doc.UUID] != nil:
			return errorf("Exists", "network port %s exists already", doc.UUID)
		}
		s.ports[doc.UUID] = &port{network: n, name: doc.Owner.Name, mac: doc.MAC.Address, machineUID: doc.Owner.UUID, lifetime: "external"}
		path = objectPath("port", doc.UUID)
		plug := fmt.Sprintf("<plug type='network' bridge='%s'/></networkport>", n.doc.Bridge.Name)
		full = strings.Replace(text, "</networkport>", plug, 1)
		return nil
	})
	return path, full, err
}

// open opens one file for each queue.
func (p *port) open(openFile func(ifname string, vnetHdr bool) (*os.File, error)) error {
	for range p.queues {
		file, err := openFile(p.ifname, p.vnetHdr)
		if err != nil {
			return errors.Join(err, p.close())
		}
		p.files = append(p.files, file)
	}
	return nil
}

// openMemory makes an empty file in memory.
func openMemory(ifname string, _ bool) (*os.File, error) {
	fd, err := unix.MemfdCreate(ifname, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), ifname), nil
}

// close closes the server's copies of the files.
func (p *port) close() (err error) {
	for _, file := range p.files {
		err = errors.Join(err, file.Close())
	}
	return err
}

func (s manager) GetPort(uuid string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ports[uuid] == nil {
		return "", errorf("NotFound", "no port has the UUID %q", uuid)
	}
	return objectPath("port", uuid), nil
}

func (s manager) ListPorts() ([]struct {
	UUID, Network string
	Path          dbus.ObjectPath
}, *dbus.Error,
) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []struct {
		UUID, Network string
		Path          dbus.ObjectPath
	}
	for _, uuid := range sortedKeys(s.ports) {
		rows = append(rows, struct {
			UUID, Network string
			Path          dbus.ObjectPath
		}{uuid, s.ports[uuid].network.doc.Name, objectPath("port", uuid)})
	}
	return rows, nil
}

func (s portObject) Release(msg dbus.Message) *dbus.Error {
	if err := s.enter("Release"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	uuid := uuidOf(pathOf(msg))
	p := s.ports[uuid]
	if p == nil {
		return errorf("NotFound", "the port is gone")
	}
	delete(s.ports, uuid)
	if err := p.close(); err != nil {
		return errorf("Internal", "closing the port: %v", err)
	}
	return nil
}

// WaitForAddress returns the addresses that were asked for; a port without waits
// in vain, and not for long.
func (s portObject) WaitForAddress(msg dbus.Message, _ uint32) ([]string, *dbus.Error) {
	if err := s.enter("WaitForAddress"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[uuidOf(pathOf(msg))]
	switch {
	case p == nil:
		return nil, errorf("NotFound", "the port is gone")
	case len(p.addresses) == 0:
		return nil, dbus.NewError("org.freedesktop.DBus.Error.Timeout", []any{"no address"})
	}
	return p.addresses, nil
}

// properties returns the properties of the port.
func (p *port) properties() map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Network":   dbus.MakeVariant(p.network.doc.Name),
		"Name":      dbus.MakeVariant(p.name),
		"Aliases":   dbus.MakeVariant(append([]string{}, p.aliases...)),
		"MAC":       dbus.MakeVariant(p.mac),
		"IfName":    dbus.MakeVariant(p.ifname),
		"Bridge":    dbus.MakeVariant(p.network.doc.Bridge.Name),
		"Parent":    dbus.MakeVariant(""),
		"Mode":      dbus.MakeVariant(""),
		"HostReach": dbus.MakeVariant(true),
		"MTU":       dbus.MakeVariant(uint32(1500)),
		"Addresses": dbus.MakeVariant(append([]string{}, p.addresses...)),
		"Reserved":  dbus.MakeVariant(append([]string{}, p.addresses...)),
		"Queues":    dbus.MakeVariant(p.queues),
		"Isolated":  dbus.MakeVariant(p.isolated),
		"Lifetime":  dbus.MakeVariant(p.lifetime),
		"Owner":     dbus.MakeVariant(p.owner),
		"OwnerUUID": dbus.MakeVariant(p.machineUID),
		"ID":        dbus.MakeVariant(p.callerID),
	}
}

// describe returns the port's description.
func (p *port) describe() map[string]any {
	values := make(map[string]any)
	for key, value := range maps.All(p.properties()) {
		values[key] = value.Value()
	}
	return values
}
