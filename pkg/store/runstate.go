package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/netdef"
)

// Phase says how far an active network had come when its run-state was written.
type Phase string

const (
	// Starting stands before the first link is made: what a crash leaves
	// behind in this phase is ours and half made.
	Starting Phase = "starting"
	// Active stands before the start is acknowledged.
	Active Phase = "active"
	// Stopping stands before the first thing is taken down.
	Stopping Phase = "stopping"
)

// Run is the run-state of one network that is not inactive: what the next
// vnetd must know to adopt it, or to clear it away.
type Run struct {
	Phase      Phase
	Network    *netdef.Network // live definition
	Persistent bool            // false: there is no definition, it goes when it stops

	// Host is what the network changed on the host and must put back: JSON that
	// its writer understands, nil for nothing.
	Host json.RawMessage
}

// runFile is Run as it stands on disk.
type runFile struct {
	Phase      Phase           `json:"phase"`
	Persistent bool            `json:"persistent"`
	XML        string          `json:"xml"`
	Host       json.RawMessage `json:"host,omitempty"`
}

// SaveRun writes r, replacing what stood for its network's UUID.
func (s *Store) SaveRun(r Run) error {
	f := runFile{Phase: r.Phase, Persistent: r.Persistent, XML: string(r.Network.XML()), Host: r.Host}
	if err := s.dirs.runs().writeJSON(r.Network.UUID, f); err != nil {
		return fmt.Errorf("saving run-state of network %q: %w", r.Network.Name, err)
	}
	return nil
}

// DeleteRun forgets the run-state of the network with that UUID.
func (s *Store) DeleteRun(uuid string) error {
	if err := s.dirs.runs().remove(uuid + ".json"); err != nil {
		return fmt.Errorf("deleting run-state of network %s: %w", uuid, err)
	}
	return nil
}

// Runs reads the run-state of every network, and tells of the files that can't be
// used, which are left where they are: their stems are the UUIDs of networks that
// were not inactive. The error is that of the directory.
func (s *Store) Runs() (runs []Run, faults []*Fault, err error) {
	faults, err = s.dirs.runs().readAll(".json", func(uuid string, data []byte) error {
		r, err := parseRun(uuid, data)
		if err == nil {
			runs = append(runs, r)
		}
		return err
	})
	return runs, faults, ifThere(err)
}

// Run reads the run-state of the network with that UUID. The error is
// os.ErrNotExist where there is none.
func (s *Store) Run(uuid string) (Run, error) {
	data, err := s.dirs.runs().read(uuid + ".json")
	if err != nil {
		return Run{}, err
	}
	return parseRun(uuid, data)
}

// Recorded lists the run-state on disk, readable or not.
func (s *Store) Recorded() (Recorded, error) {
	networks, err := stems(s.dirs.runs())
	if err != nil {
		return Recorded{}, err
	}
	ports, err := stems(s.dirs.ports())
	return Recorded{s.dirs, networks, ports}, err
}

// Recorded are the UUIDs of the networks and ports that have run-state on disk.
type Recorded struct {
	dirs            Dirs
	Networks, Ports map[string]bool
}

// HasNetwork reports whether a network has run-state now: what was written since the list
// was made counts.
func (r Recorded) HasNetwork(uuid string) bool {
	return r.Networks[uuid] || r.dirs.runs().has(uuid+".json")
}

// HasPort is HasNetwork of a port.
func (r Recorded) HasPort(uuid string) bool {
	return r.Ports[uuid] || r.dirs.ports().has(uuid+".json")
}

// stems are the names of the files of run-state in dir, without what they end in. A
// directory that is not there has none.
func stems(dir place) (map[string]bool, error) {
	entries, err := dir.list()
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	all := make(map[string]bool, len(entries))
	for _, e := range entries {
		if stem, ok := strings.CutSuffix(e.Name(), ".json"); ok {
			all[stem] = true
		}
	}
	return all, nil
}

// parseRun reads the run-state of the network with that UUID.
func parseRun(uuid string, data []byte) (Run, error) {
	var f runFile
	if err := json.Unmarshal(data, &f); err != nil {
		return Run{}, err
	}
	n, err := netdef.Parse([]byte(f.XML))
	if err == nil {
		err = n.Runnable()
	}
	if err == nil && n.UUID != uuid {
		err = fmt.Errorf("it is of another network, %q", n.UUID)
	}
	if err != nil {
		return Run{}, err
	}
	return Run{Phase: f.Phase, Network: n, Persistent: f.Persistent, Host: f.Host}, nil
}

// Port is the run-state of one port.
type Port struct {
	UUID     string           `json:"uuid"`
	Network  string           `json:"network"` // UUID of its network
	Name     string           `json:"name,omitempty"`
	Aliases  []string         `json:"aliases,omitempty"` // of Name
	MAC      net.HardwareAddr `json:"-"`
	IfName   string           `json:"ifname"`
	Index    int              `json:"ifindex"`
	Queues   int              `json:"queues,omitempty"`
	VnetHdr  bool             `json:"vnet_hdr,omitempty"`
	Isolated bool             `json:"isolated,omitempty"`
	Lifetime string           `json:"lifetime"`
	Owner    uint32           `json:"owner"` // uid
	Created  time.Time        `json:"created"`

	Addrs     []netip.Addr     `json:"addresses,omitempty"` // set aside for the guest
	ID        string           `json:"id,omitempty"`        // the owner's word for it
	OwnerUUID string           `json:"owner_uuid,omitempty"`
	Holder    string           `json:"holder,omitempty"`      // of a port that ends with its client
	MadeUp    bool             `json:"mac_made_up,omitempty"` // the MAC address is not of the launcher's choice
	Guest     net.HardwareAddr `json:"-"`                     // the guest's, where it has another than MAC
	Guard     string           `json:"guard,omitempty"`       // what it is kept from sending, as asked for
	Allow     []string         `json:"allow,omitempty"`       // what it may send beside its own
	Untrusted bool             `json:"untrusted,omitempty"`   // its owner may not choose addresses

	PortGroup string            `json:"portgroup,omitempty"` // of its network; empty: the default one
	Bandwidth map[string]uint64 `json:"bandwidth,omitempty"` // its own limits, by netdef.LimitNames
	ClassID   uint32            `json:"class_id,omitempty"`  // the traffic class of its floor
	Rules     []string          `json:"rules,omitempty"`     // its own, as policy.ParseRule reads them
	VLAN      string            `json:"vlan,omitempty"`      // its own, in place of those of group and network

	Document string `json:"document,omitempty"` // <networkport>, of a port whose device is another's

	// Of a macvtap device.
	Parent string `json:"parent,omitempty"` // the interface of the host that it is on
	Mode   string `json:"mode,omitempty"`   // as libvirt calls it
	Node   string `json:"node,omitempty"`   // its device node
	Lock   string `json:"lock,omitempty"`   // of who has it open, in /proc/locks
}

// portRecord is a Port on disk.
type portRecord struct {
	*Port
	MAC   hexMAC `json:"mac"`
	Guest hexMAC `json:"guest,omitempty"`
}

// hexMAC is a MAC address that stands in JSON as aa:bb:cc:dd:ee:ff.
type hexMAC net.HardwareAddr

// MarshalText implements encoding.TextMarshaler.
func (m hexMAC) MarshalText() ([]byte, error) { return []byte(net.HardwareAddr(m).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *hexMAC) UnmarshalText(text []byte) error {
	mac, err := net.ParseMAC(string(text))
	*m = hexMAC(mac)
	return err
}

// SavePort writes p, replacing what stood for its UUID.
func (s *Store) SavePort(p Port) error {
	if err := s.dirs.ports().writeJSON(p.UUID, portRecord{&p, hexMAC(p.MAC), hexMAC(p.Guest)}); err != nil {
		return fmt.Errorf("saving port %s: %w", p.UUID, err)
	}
	return nil
}

// DeletePort forgets the port with that UUID.
func (s *Store) DeletePort(uuid string) error {
	if err := s.dirs.ports().remove(uuid + ".json"); err != nil {
		return fmt.Errorf("deleting port %s: %w", uuid, err)
	}
	return nil
}

// LacksPort reports whether the port with that UUID has no run-state now, for sure.
func LacksPort(s *Store, uuid string) bool { return s.dirs.ports().lacks(uuid + ".json") }

// Ports reads every port, and tells of the files that can't be used. The error is
// that of the directory.
func (s *Store) Ports() (ports []Port, faults []*Fault, err error) {
	faults, err = s.dirs.ports().readAll(".json", func(uuid string, data []byte) error {
		p := portRecord{Port: new(Port)}
		err := json.Unmarshal(data, &p)
		p.Port.MAC, p.Port.Guest = net.HardwareAddr(p.MAC), net.HardwareAddr(p.Guest)
		switch {
		case err != nil:
			return err
		case p.UUID != uuid:
			return fmt.Errorf("it is of another port, %q", p.UUID)
		case len(p.MAC) != 6:
			return fmt.Errorf("mac: %q is not the address of a card", p.Port.MAC)
		}
		ports = append(ports, *p.Port)
		return nil
	})
	return ports, faults, ifThere(err)
}

// writeJSON replaces the file of run-state of that stem by v.
func (p place) writeJSON(stem string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return p.write(stem+".json", append(data, '\n'), 0o600)
}
