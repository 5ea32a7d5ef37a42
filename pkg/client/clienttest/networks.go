package clienttest

import (
	"cmp"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"
)

// Lease has the fields of one lease on the wire, a(sxisssuss).
type Lease struct {
	Interface string
	Expiry    int64 // seconds of Unix time; 0 is never
	Type      int32 // 0 IPv4, 1 IPv6
	MAC       string
	IAID      string
	Address   string
	Prefix    uint32
	Hostname  string
	ClientID  string
}

// document is the little that the server reads of a <network>.
type document struct {
	XMLName xml.Name `xml:"network"`
	Name    string   `xml:"name"`
	UUID    string   `xml:"uuid"`
	Bridge  struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	Forward *struct {
		Mode string `xml:"mode,attr"`
	} `xml:"forward"`
	Domain struct {
		Name string `xml:"name,attr"`
	} `xml:"domain"`
	IPs []struct {
		Address string `xml:"address,attr"`
		Prefix  string `xml:"prefix,attr"`
		Netmask string `xml:"netmask,attr"`
		Ranges  []struct {
			Start string `xml:"start,attr"`
			End   string `xml:"end,attr"`
		} `xml:"dhcp>range"`
	} `xml:"ip"`
}

// network is one network. Server.mu guards it.
type network struct {
	doc        document
	definition string // empty: transient
	running    string // empty: inactive
	autostart  bool
	leases     []Lease
	detail     map[string]any // of Describe, in place of its own
	state      string         // overrides the state if not empty
	lastError  string
}

// SetLeases sets the leases of the network with the name.
func (s *Server) SetLeases(name string, leases ...Lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byName(name); n != nil {
		n.leases = leases
	}
}

// SetState makes the network with the name show a state and a last error.
func (s *Server) SetState(name, state, lastError string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byName(name); n != nil {
		n.state, n.lastError = state, lastError
	}
}

// SetDetail makes Describe of the network with the name tell something else by a key.
func (s *Server) SetDetail(name, key string, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.byName(name); n != nil {
		if n.detail == nil {
			n.detail = make(map[string]any)
		}
		n.detail[key] = value
	}
}

// byName returns the network with the name or nil. s.mu must be locked.
func (s *Server) byName(name string) *network {
	for _, n := range s.networks {
		if n.doc.Name == name {
			return n
		}
	}
	return nil
}

// anyName finds a network as RequestPort does. s.mu must be locked.
func (s *Server) anyName(name string) *network {
	if n := s.byName(name); n != nil {
		return n
	}
	for uuid, n := range s.networks {
		if uuid == name || n.doc.Bridge.Name == name {
			return n
		}
	}
	return nil
}

// parse reads a document and completes it. s.mu must be locked.
func (s *Server) parse(text string) (document, *dbus.Error) {
	var doc document
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return doc, errorf("Invalid", "the network XML does not parse: %v", err)
	}
	if doc.Name == "" {
		return doc, errorf("Invalid", "network/name: missing\nnetwork/ip: missing")
	}
	if n := s.byName(doc.Name); n != nil {
		doc.UUID, doc.Bridge.Name = cmp.Or(doc.UUID, n.doc.UUID), cmp.Or(doc.Bridge.Name, n.doc.Bridge.Name)
	}
	if doc.UUID == "" {
		doc.UUID = s.uuid()
	}
	if doc.Bridge.Name == "" {
		doc.Bridge.Name = fmt.Sprintf("virbr%d", len(s.networks))
	}
	return doc, s.clash(doc)
}

// clash reports another network that stands in the way. s.mu must be locked.
func (s *Server) clash(doc document) *dbus.Error {
	for _, uuid := range sortedKeys(s.networks) {
		n := s.networks[uuid]
		switch {
		case uuid == doc.UUID:
		case n.doc.Name == doc.Name:
			return errorf("Exists", "network %q already exists with UUID %s", doc.Name, uuid)
		case n.doc.Bridge.Name == doc.Bridge.Name:
			return errorf("Conflict", "bridge %q is in use by network %q", doc.Bridge.Name, n.doc.Name)
		}
	}
	return nil
}

func (s manager) DefineNetwork(text string) (dbus.ObjectPath, *dbus.Error) {
	return s.addNetwork("DefineNetwork", text, func(n *network) { n.definition = text })
}

// DefineNetworkWithOptions knows lines, not elements. Those with an <ip> or a
// <forward> are what harms guests.
func (s manager) DefineNetworkWithOptions(text string, options map[string]dbus.Variant) (dbus.ObjectPath, map[string]dbus.Variant, *dbus.Error) {
	is := func(option string) bool { on, _ := options[option].Value().(bool); return on }
	apply, _ := options["apply"].Value().(string)
	s.mu.Lock()
	var doc document
	var had, running string
	if xml.Unmarshal([]byte(text), &doc) == nil {
		if n := s.byName(doc.Name); n != nil {
			had, running = cmp.Or(n.definition, n.running), n.running
		}
	}
	s.mu.Unlock()
	if had != "" && (is("new") || is("strict") && doc.UUID == "") {
		return "", nil, errorf("Exists", "network '%s' already exists", doc.Name)
	}
	result := map[string]any{"action": action(had, text), "changes": lineChanges(had, text), "pending": []string{}}
	path, err := s.addNetwork("DefineNetworkWithOptions", text, func(n *network) {
		n.definition = text
		if running == "" {
			return
		}
		if apply == "all" || apply != "none" && !harms(lineChanges(running, text)) {
			n.running = text
		}
		if had == text && n.running != running {
			result["action"], result["changes"] = "applied", lineChanges(running, text)
		}
		result["pending"] = lineChanges(n.running, text)
	})
	reply := make(map[string]dbus.Variant)
	for key, v := range result {
		reply[key] = dbus.MakeVariant(v)
	}
	return path, reply, err
}

// bits is the length of the prefix that a netmask makes.
func bits(netmask string) string {
	mask, err := netip.ParseAddr(netmask)
	if err != nil {
		return ""
	}
	ones, _ := net.IPMask(mask.AsSlice()).Size()
	return fmt.Sprint(ones)
}

// action is what a define of text does to a definition, which is empty where there is none.
func action(had, text string) string {
	switch had {
	case "":
		return "defined"
	case text:
		return "unchanged"
	}
	return "changed"
}

// harms reports whether lines change that guests rely on.
func harms(changes []string) bool {
	return slices.ContainsFunc(changes, func(line string) bool {
		return strings.Contains(line, "<ip ") || strings.Contains(line, "<forward")
	})
}

// lineChanges tells which lines of two documents are in one alone.
func lineChanges(old, new string) []string {
	changes := []string{}
	was, is := strings.Split(old, "\n"), strings.Split(new, "\n")
	for _, line := range is {
		if old != "" && !slices.Contains(was, line) {
			changes = append(changes, strings.TrimSpace(line)+" is new")
		}
	}
	for _, line := range was {
		if !slices.Contains(is, line) {
			changes = append(changes, strings.TrimSpace(line)+" is gone")
		}
	}
	return slices.DeleteFunc(changes, func(c string) bool { return c == " is gone" })
}

// pending is what the network's next start changes.
func (n *network) pending() []string {
	if n.running == "" || n.definition == "" {
		return []string{}
	}
	return lineChanges(n.running, n.definition)
}

func (s manager) CreateNetwork(text string) (dbus.ObjectPath, *dbus.Error) {
	return s.addNetwork("CreateNetwork", text, func(n *network) { n.running = text })
}

// addNetwork parses text and lets set note it in a new or known network.
func (s *Server) addNetwork(method, text string, set func(*network)) (dbus.ObjectPath, *dbus.Error) {
	if err := s.enter(method); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, err := s.parse(text)
	if err != nil {
		return "", err
	}
	n := s.networks[doc.UUID]
	if n == nil {
		n = &network{}
		s.networks[doc.UUID] = n
	}
	n.doc = doc
	set(n)
	return objectPath("network", doc.UUID), nil
}

func (s manager) GetNetwork(name string) (dbus.ObjectPath, *dbus.Error) {
	if err := s.enter("GetNetwork"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.byName(name)
	if n == nil {
		return "", errorf("NotFound", "no network is named %q", name)
	}
	return objectPath("network", n.doc.UUID), nil
}

func (s manager) GetNetworkByUUID(uuid string) (dbus.ObjectPath, *dbus.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.networks[uuid] == nil {
		return "", errorf("NotFound", "no network has the UUID %q", uuid)
	}
	return objectPath("network", uuid), nil
}

func (s manager) ListNetworks() ([]struct {
	Name, UUID string
	Path       dbus.ObjectPath
}, *dbus.Error,
) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var rows []struct {
		Name, UUID string
		Path       dbus.ObjectPath
	}
	for _, uuid := range sortedKeys(s.networks) {
		rows = append(rows, struct {
			Name, UUID string
			Path       dbus.ObjectPath
		}{s.networks[uuid].doc.Name, uuid, objectPath("network", uuid)})
	}
	return rows, nil
}

// onNetwork runs fn on the network that a call is for, with s.mu locked.
func (s *Server) onNetwork(msg dbus.Message, method string, fn func(*network) *dbus.Error) *dbus.Error {
	if err := s.enter(method); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.networks[uuidOf(pathOf(msg))]
	if n == nil {
		return errorf("NotFound", "the network is gone")
	}
	return fn(n)
}

func (s networkObject) Start(msg dbus.Message) *dbus.Error {
	return s.onNetwork(msg, "Start", func(n *network) *dbus.Error {
		if n.running != "" {
			return errorf("InvalidState", "network %q is already active", n.doc.Name)
		}
		n.running = n.definition
		return nil
	})
}

func (s networkObject) Stop(msg dbus.Message) *dbus.Error {
	return s.onNetwork(msg, "Stop", func(n *network) *dbus.Error {
		if n.running == "" {
			return errorf("InvalidState", "network %q is not active", n.doc.Name)
		}
		n.running = ""
		s.dropIfGone(n)
		return nil
	})
}

func (s networkObject) Undefine(msg dbus.Message) *dbus.Error {
	return s.onNetwork(msg, "Undefine", func(n *network) *dbus.Error {
		if n.definition == "" {
			return errorf("InvalidState", "network %q has no definition", n.doc.Name)
		}
		n.definition, n.autostart = "", false
		s.dropIfGone(n)
		return nil
	})
}

func (s networkObject) Rename(msg dbus.Message, name string) (path dbus.ObjectPath, err *dbus.Error) {
	err = s.onNetwork(msg, "Rename", func(n *network) *dbus.Error {
		switch other := s.byName(name); {
		case n.running != "":
			return errorf("InvalidState", "network %q is active: stop it to rename it", n.doc.Name)
		case other != nil:
			return errorf("Exists", "network '%s' already exists with uuid %s", name, other.doc.UUID)
		}
		n.definition = strings.Replace(n.definition, "<name>"+n.doc.Name+"</name>", "<name>"+name+"</name>", 1)
		n.doc.Name = name
		return nil
	})
	return objectPath("network", uuidOf(pathOf(msg))), err
}

// Update adds entries only, and not where they belong: what an entry
// means is not the business of a client.
func (s networkObject) Update(msg dbus.Message, command, section string, _ int32, xml string, flags uint32) *dbus.Error {
	return s.onNetwork(msg, "Update", func(n *network) *dbus.Error {
		live := flags&1 != 0 || flags == 0 && n.running != ""
		config := flags&2 != 0 || flags == 0 && n.running == ""
		switch {
		case flags > 3:
			return errorf("Invalid", "unknown flags %#x", flags)
		case command == "delete":
			return errorf("NotFound", "network %q has no such entry in its section %s", n.doc.Name, section)
		case command != "add":
			return errorf("Invalid", "unknown command %q", command)
		case live && n.running == "":
			return errorf("InvalidState", "network %q is not active", n.doc.Name)
		case config && n.definition == "":
			return errorf("InvalidState", "network %q has no definition", n.doc.Name)
		}
		added := "  <!-- " + section + " -->" + xml + "\n</network>"
		if live {
			n.running = strings.Replace(n.running, "</network>", added, 1)
		}
		if config {
			n.definition = strings.Replace(n.definition, "</network>", added, 1)
		}
		return nil
	})
}

// dropIfGone forgets a network that has neither definition nor life.
func (s *Server) dropIfGone(n *network) {
	if n.definition == "" && n.running == "" {
		delete(s.networks, n.doc.UUID)
	}
}

func (s networkObject) GetXML(msg dbus.Message, flags uint32) (text string, err *dbus.Error) {
	err = s.onNetwork(msg, "GetXML", func(n *network) *dbus.Error {
		if flags > 1 {
			return errorf("Invalid", "unknown flags %#x", flags)
		}
		if flags == 1 && n.definition == "" {
			return errorf("InvalidState", "network %q has no definition", n.doc.Name)
		}
		if text = n.running; text == "" || flags == 1 {
			text = n.definition
		}
		return nil
	})
	return text, err
}

func (s networkObject) GetLeases(msg dbus.Message) (leases []Lease, err *dbus.Error) {
	err = s.onNetwork(msg, "GetLeases", func(n *network) *dbus.Error {
		if n.running == "" {
			return errorf("InvalidState", "network %q is not active", n.doc.Name)
		}
		leases = n.leases
		return nil
	})
	return leases, err
}

// properties returns the properties of the network.
func (s *Server) networkProperties(n *network) map[string]dbus.Variant {
	return map[string]dbus.Variant{
		"Name":       dbus.MakeVariant(n.doc.Name),
		"UUID":       dbus.MakeVariant(n.doc.UUID),
		"Active":     dbus.MakeVariant(n.running != ""),
		"Persistent": dbus.MakeVariant(n.definition != ""),
		"Autostart":  dbus.MakeVariant(n.autostart),
		"Bridge":     dbus.MakeVariant(n.doc.Bridge.Name),
		"Mode":       dbus.MakeVariant(n.mode()),
		"State":      dbus.MakeVariant(n.currentState()),
		"LastError":  dbus.MakeVariant(n.lastError),
		"Pending":    dbus.MakeVariant(n.pending()),
		"Conditions": busConditions(concerning(s.conditions, n.doc.Name)),
	}
}

// mode follows libvirt: no <forward> is isolated, one without a mode is nat.
func (n *network) mode() string {
	switch {
	case n.doc.Forward == nil:
		return "none"
	case n.doc.Forward.Mode == "":
		return "nat"
	}
	return n.doc.Forward.Mode
}

// currentState returns what SetState said, or what is the case.
func (n *network) currentState() string {
	switch {
	case n.state != "":
		return n.state
	case n.running != "":
		return "active"
	}
	return "inactive"
}

// describe returns the network's description. s.mu must be locked.
func (s *Server) describe(n *network) string {
	addresses := []string{}
	for _, ip := range n.doc.IPs {
		addresses = append(addresses, ip.Address+"/"+cmp.Or(ip.Prefix, bits(ip.Netmask)))
	}
	ports := []map[string]any{}
	for _, uuid := range sortedKeys(s.ports) {
		if p := s.ports[uuid]; p.network == n {
			ports = append(ports, map[string]any{"uuid": uuid, "ifname": p.ifname, "mac": p.mac, "name": p.name})
		}
	}
	leases := []map[string]any{}
	for _, l := range n.leases {
		leases = append(leases, map[string]any{
			"address": l.Address, "prefix": l.Prefix, "mac": l.MAC, "hostname": l.Hostname, "client_id": l.ClientID, "expiry": expiry(l.Expiry),
		})
	}
	all := map[string]any{
		"name": n.doc.Name, "uuid": n.doc.UUID, "mode": n.mode(), "state": n.currentState(), "active": n.running != "",
		"persistent": n.definition != "", "autostart": n.autostart, "mac": "", "mtu": 0,
		"bridge": n.doc.Bridge.Name, "addresses": addresses, "ports": ports, "leases": leases, "last_error": n.lastError,
		"conditions": concerning(s.conditions, n.doc.Name), "pools": n.pools(), "dns": n.dns(), "pending": n.pending(),
		"not_understood": []string{}, "faults": map[string]string{}, "repairs": 0,
	}
	maps.Copy(all, n.detail)
	text, _ := json.Marshal(all)
	return string(text)
}

// pools are the network's DHCP ranges; every lease counts as one of them.
func (n *network) pools() []map[string]any {
	pools := []map[string]any{}
	for _, ip := range n.doc.IPs {
		if len(ip.Ranges) == 0 {
			continue
		}
		ranges, size := []map[string]string{}, uint64(0)
		for _, r := range ip.Ranges {
			ranges = append(ranges, map[string]string{"start": r.Start, "end": r.End})
			start, end := netip.MustParseAddr(r.Start).AsSlice(), netip.MustParseAddr(r.End).AsSlice()
			size += uint64(end[len(end)-1]-start[len(start)-1]) + 1
		}
		pools = append(pools, map[string]any{"family": "ipv4", "ranges": ranges, "size": size, "used": len(n.leases), "reservations": 0})
	}
	return pools
}

// dns is the network's name service; null without an address.
func (n *network) dns() any {
	if len(n.doc.IPs) == 0 {
		return nil
	}
	upstreams := []map[string]any{}
	if n.running != "" {
		upstreams = append(upstreams, map[string]any{"addr": "192.0.2.53:53", "domain": "", "failing": false})
	}
	return map[string]any{"domain": n.doc.Domain.Name, "upstreams": upstreams}
}

// expiry is a lease's end in JSON, nil for never.
func expiry(unix int64) any {
	if unix == 0 {
		return nil
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

// byNetworkName lists the UUIDs of the networks in order of their names. s.mu must
// be locked.
func (s *Server) byNetworkName() []string {
	return slices.SortedFunc(maps.Keys(s.networks), func(a, b string) int {
		return strings.Compare(s.networks[a].doc.Name, s.networks[b].doc.Name)
	})
}

// Plan tells of the link, the addresses and one rule; of every clash as vnetd does.
func (s manager) Plan(text string) (string, *dbus.Error) {
	if err := s.enter("Plan"); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	serial := s.serial
	doc, clash := s.parse(text)
	s.serial = serial
	if clash != nil && doc.Name == "" {
		return "", clash
	}
	n := &network{doc: doc}
	conflicts, addresses := []string{}, []map[string]string{}
	if clash != nil {
		conflicts = append(conflicts, fmt.Sprint(clash.Body...))
	}
	for _, ip := range doc.IPs {
		addresses = append(addresses, map[string]string{"link": doc.Bridge.Name, "address": ip.Address + "/" + cmp.Or(ip.Prefix, bits(ip.Netmask))})
	}
	plan, _ := json.Marshal(map[string]any{
		"name": doc.Name, "mode": n.mode(), "action": "create", "conflicts": conflicts, "pending": []string{}, "forwards": []string{}, "addresses": addresses,
		"links":   []map[string]any{{"name": doc.Bridge.Name, "kind": "bridge", "made": true, "mac": "", "mtu": 0, "stp": true, "forward_delay": 0, "uplink": "", "zone": ""}},
		"routes":  []string{},
		"sysctls": []map[string]string{{"key": "net/ipv4/ip_forward", "value": "1"}},
		"rules": []map[string]string{{
			"family": "ipv4", "table": "filter", "chain": "LIBVIRT_FWX", "args": "-i " + doc.Bridge.Name + " -o " + doc.Bridge.Name + " -j ACCEPT",
		}},
		"pools": n.pools(), "services": []string{}, "not_understood": []string{},
	})
	return string(plan), nil
}
