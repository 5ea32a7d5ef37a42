package clienttest

import (
	"cmp"
	"encoding/json"
	"encoding/xml"

	"github.com/godbus/dbus/v5"

	"github.com/vnetd/vnetd/pkg/api"
)

// SetImportPending says whether libvirt's networks are to be imported.
func (s *Server) SetImportPending(pending bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = pending
}

// networkPort is the little that the server reads of a <networkport>.
type networkPort struct {
	UUID  string `xml:"uuid"`
	Owner string `xml:"owner>name"`
	MAC   struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
}

// takenPorts reads what ports say of themselves.
func takenPorts(texts []string) ([]api.TakenPort, *dbus.Error) {
	taken := []api.TakenPort{}
	for _, text := range texts {
		var p networkPort
		if err := xml.Unmarshal([]byte(text), &p); err != nil {
			return nil, errorf("Invalid", "a port: %v", err)
		}
		taken = append(taken, api.TakenPort{UUID: p.UUID, Owner: p.Owner, MAC: p.MAC.Address})
	}
	return taken, nil
}

// liveNetwork is the <network> of a <networkstatus>; empty for none.
func liveNetwork(status string) (string, *dbus.Error) {
	var doc struct {
		Network struct {
			Inner string `xml:",innerxml"`
		} `xml:"network"`
	}
	if status == "" {
		return "", nil
	}
	if err := xml.Unmarshal([]byte(status), &doc); err != nil {
		return "", errorf("Invalid", "status: %v", err)
	}
	return "<network>" + doc.Network.Inner + "</network>", nil
}

// TakeOver has a network of libvirt's be one of the server's. Of ports it takes what
// they say for granted, and of leases as many as there are.
func (s manager) TakeOver(definition, status string, ports []string, leases string, autostart, dry bool) (string, *dbus.Error) {
	if err := s.enter("TakeOver"); err != nil {
		return "", err
	}
	live, err := liveNetwork(status)
	if err != nil {
		return "", err
	}
	taken, err := takenPorts(ports)
	if err != nil {
		return "", err
	}
	var list []any
	if leases != "" {
		if err := json.Unmarshal([]byte(leases), &list); err != nil {
			return "", errorf("Invalid", "leases: %v", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, err := s.parse(cmp.Or(live, definition))
	if err != nil {
		return "", err
	}
	n, action := s.networks[doc.UUID], api.TakeDefine
	switch {
	case n != nil && (n.running != "" || live == ""):
		action, taken = api.TakePresent, nil
	case live != "":
		action = api.TakeAdopt
	}
	if !dry && action != api.TakePresent {
		s.networks[doc.UUID] = &network{doc: doc, definition: definition, running: live, autostart: autostart}
	}
	reply, _ := json.Marshal(api.Taken{
		Name: doc.Name, UUID: doc.UUID, Bridge: doc.Bridge.Name, Action: action, Autostart: autostart,
		Start: action == api.TakeDefine && autostart, Ports: append([]api.TakenPort{}, taken...), Leases: len(list), Refused: []string{},
	})
	return string(reply), nil
}
