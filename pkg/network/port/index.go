package port

import (
	"bytes"
	"net"
	"slices"
	"strconv"
	"strings"
)

// index finds ports by whatever is asked for in a time that does not depend on their
// number.
type index struct {
	byUUID    map[string]*Port // in lower case
	byIndex   map[int]*Port
	byIfName  map[string]*Port
	byMAC     map[[6]byte][]*Port // of vnetd's own one a network
	byCard    map[[6]byte][]*Port // by what they learned, one a network
	byName    map[nameKey][]*Port
	byID      map[idKey]*Port // nil: of a port that is being made
	byNetwork map[networkKey]map[*Port]struct{}
	byHolder  map[string]map[*Port]struct{}
	ruled     map[string]map[*Port]struct{} // of vnetd's own with rules of their own, by network
	free      int                           // all lower numbers of names of devices are given away
}

// nameKey is a guest's name on one network, in lower case.
type nameKey struct{ network, name string }

// idKey is the id that an owner gave to a port.
type idKey struct {
	owner uint32
	id    string
}

// networkKey is the ports of one kind on one network.
type networkKey struct {
	network string
	kind    Kind
}

func newIndex() index {
	return index{
		byUUID: make(map[string]*Port), byIndex: make(map[int]*Port), byIfName: make(map[string]*Port),
		byMAC: make(map[[6]byte][]*Port), byCard: make(map[[6]byte][]*Port), byName: make(map[nameKey][]*Port), byID: make(map[idKey]*Port),
		byNetwork: make(map[networkKey]map[*Port]struct{}), byHolder: make(map[string]map[*Port]struct{}),
		ruled: make(map[string]map[*Port]struct{}),
	}
}

func (x *index) insert(p *Port) {
	x.byUUID[strings.ToLower(p.UUID)] = p
	put(x.byNetwork, networkKey{p.Network, p.Kind}, p)
	x.setDevice(p, p.status.IfName, p.status.Index)
	x.setRuled(p)
	if p.Kind == Orphan {
		return
	}
	if key, ok := macKey(p.MAC); ok {
		if q := on(x.byCard[key], p.Network); q != nil && p.Kind == Own {
			x.unlearn(q) // what a launcher says stands before what was learned
		}
		x.byMAC[key] = append(x.byMAC[key], p)
	}
	if key, ok := macKey(p.status.Card); ok {
		x.byCard[key] = append(x.byCard[key], p)
	}
	for _, key := range p.nameKeys() {
		x.byName[key] = append(x.byName[key], p)
	}
	if p.ID != "" {
		x.byID[idKey{p.Owner, p.ID}] = p
	}
	if p.status.Holder != "" {
		put(x.byHolder, p.status.Holder, p)
	}
}

// setRuled has p be among those with rules where it has any.
func (x *index) setRuled(p *Port) {
	if p.Kind == Own && len(p.status.Rules) > 0 {
		put(x.ruled, p.Network, p)
		return
	}
	drop(x.ruled, p.Network, p)
}

// setDevice has p found by its device. One of a port of another program's that has the same
// card on the same network stays that port's until it ends: libvirt makes a second port of a
// guest's card where something of it changes, and ends the first, or the second again.
func (x *index) setDevice(p *Port, name string, index int) {
	x.forgetDevice(p)
	p.status.IfName, p.status.Index = name, index
	if q := x.byIndex[index]; index == 0 || q != nil && q.Kind == External && p.Kind == External && q.Network == p.Network && bytes.Equal(q.MAC, p.MAC) {
		return
	}
	x.byIndex[index], x.byIfName[name] = p, p
}

// forgetDevice has p's device be that of another port that has it, too, if there is one.
func (x *index) forgetDevice(p *Port) {
	index, name := p.status.Index, p.status.IfName
	if index == 0 || x.byIndex[index] != p {
		return
	}
	delete(x.byIndex, index)
	if x.byIfName[name] == p {
		delete(x.byIfName, name)
	}
	for q := range x.byNetwork[networkKey{p.Network, External}] {
		if q != p && q.status.Index == index {
			x.byIndex[index], x.byIfName[name] = q, q
			return
		}
	}
}

// namePrefix is how names of devices begin that nobody chose, before a number: as with libvirt.
const namePrefix = "vnet"

// claimName is the name with the lowest number that no port has, and that was not claimed before.
func (x *index) claimName() string {
	for {
		name := namePrefix + strconv.Itoa(x.free)
		x.free++
		if x.byIfName[name] == nil {
			return name
		}
	}
}

// freeName has a name be claimed again that no device has any more.
func (x *index) freeName(name string) {
	number, ok := strings.CutPrefix(name, namePrefix)
	if n, err := strconv.Atoi(number); ok && err == nil && name == namePrefix+strconv.Itoa(n) {
		x.free = min(x.free, n)
	}
}

// remove takes back what insert did.
func (x *index) remove(p *Port) {
	x.freeName(p.status.IfName)
	delete(x.byUUID, strings.ToLower(p.UUID))
	drop(x.byNetwork, networkKey{p.Network, p.Kind}, p)
	drop(x.ruled, p.Network, p)
	x.forgetDevice(p)
	if p.Kind == Orphan {
		return
	}
	if key, ok := macKey(p.MAC); ok {
		leave(x.byMAC, key, p)
	}
	if key, ok := macKey(p.status.Card); ok {
		leave(x.byCard, key, p)
	}
	for _, key := range p.nameKeys() {
		leave(x.byName, key, p)
	}
	drop(x.byHolder, p.status.Holder, p)
	delete(x.byID, idKey{p.Owner, p.ID})
}

// unlearn takes back what Learn did, and what the guest had.
func (x *index) unlearn(p *Port) {
	if key, ok := macKey(p.status.Card); ok {
		leave(x.byCard, key, p)
	}
	p.status.Card, p.status.Held = nil, nil
	p.tell()
}

// guest is Registry.Guest.
func (x *index) guest(network string, mac net.HardwareAddr) *Port {
	key, ok := macKey(mac)
	if !ok {
		return nil
	}
	if p := on(x.byMAC[key], network); p != nil && p.Kind == Own {
		return p
	}
	return on(x.byCard[key], network)
}

// foreign is the network's foreign port of a device, nil for none.
func (x *index) foreign(network string, index int) *Port {
	for p := range x.byNetwork[networkKey{network, Foreign}] {
		if p.status.Index == index {
			return p
		}
	}
	return nil
}

// nameKeys are the names that the port has on its network: its own, if any, and its aliases.
func (p *Port) nameKeys() (all []nameKey) {
	for _, name := range append([]string{p.Name}, p.Aliases...) {
		if name != "" {
			all = append(all, nameKey{p.Network, strings.ToLower(name)})
		}
	}
	return all
}

// macKey is mac as a key of maps, if it is the address of a card.
func macKey(mac net.HardwareAddr) (key [6]byte, ok bool) {
	if len(mac) != 6 {
		return key, false
	}
	return [6]byte(mac), true
}

// put, drop and leave change indices of several ports under one key.
func put[K comparable](index map[K]map[*Port]struct{}, key K, p *Port) {
	if index[key] == nil {
		index[key] = make(map[*Port]struct{})
	}
	index[key][p] = struct{}{}
}

func drop[K comparable](index map[K]map[*Port]struct{}, key K, p *Port) {
	delete(index[key], p)
	if len(index[key]) == 0 {
		delete(index, key)
	}
}

func leave[K comparable](index map[K][]*Port, key K, p *Port) {
	rest := slices.DeleteFunc(index[key], func(q *Port) bool { return q == p })
	if len(rest) == 0 {
		delete(index, key)
		return
	}
	index[key] = rest
}

// on is the first of ports that is on the network, or the first of all for "": one of
// vnetd's own, if there is any.
func on(ports []*Port, network string) (found *Port) {
	for _, p := range ports {
		if (network == "" || p.Network == network) && (found == nil || p.Kind < found.Kind) {
			found = p
		}
	}
	return found
}
