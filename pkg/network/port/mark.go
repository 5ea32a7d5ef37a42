package port

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vnetd/vnetd/pkg/api"
	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/store"
)

// What vnetd makes says so of itself, in its ifalias, which takes CAP_NET_ADMIN to
// set: ports are known by it where their run-state is lost.
//
//	vnetd port UUID network=UUID mac=… KEY=VALUE …
const (
	// MarkPrefix is how all marks of vnetd's begin.
	MarkPrefix = "vnetd "
	mark       = MarkPrefix + "port "

	// MarkSize is the length of the longest mark: IFALIASZ of linux/if.h, less the
	// final NUL.
	MarkSize = 255
)

// Mark is the mark of a port's device. What makes it too long is left out, the
// owner's words for the port first: the port can do without.
func Mark(p store.Port) string {
	text := mark + p.UUID
	add := func(wanted bool, key, value string) {
		if field := " " + key + "=" + value; wanted && len(text)+len(field) <= MarkSize {
			text += field
		}
	}
	add(true, "network", p.Network)
	add(true, "mac", p.MAC.String())
	add(true, "lifetime", p.Lifetime)
	add(true, "owner", strconv.FormatUint(uint64(p.Owner), 10))
	add(true, "created", strconv.FormatInt(p.Created.Unix(), 10))
	add(p.Queues > 1, "queues", strconv.Itoa(p.Queues))
	add(p.Lock != "", "lock", p.Lock)
	add(p.Mode != "", "mode", p.Mode)
	add(p.Parent != "", "parent", p.Parent)
	add(p.Node != "", "node", url.QueryEscape(p.Node))
	for _, t := range toggles(&p) {
		add(*t.on, t.key, "1")
	}
	add(p.PortGroup != "", "portgroup", url.QueryEscape(p.PortGroup))
	add(len(p.Bandwidth) > 0, "bandwidth", bandwidthText(p.Bandwidth))
	add(p.ClassID != 0, "class", strconv.FormatUint(uint64(p.ClassID), 10))
	add(p.Name != "", "name", p.Name)
	for _, a := range p.Addrs {
		add(true, "address", a.String())
	}
	add(p.Guard != "", "guard", p.Guard)
	for _, what := range p.Allow {
		add(true, "allow", what)
	}
	add(p.VLAN != "", "vlan", p.VLAN)
	for _, rule := range p.Rules {
		add(true, "rule", url.QueryEscape(rule))
	}
	add(p.ID != "", "id", url.QueryEscape(p.ID))
	for _, a := range p.Aliases {
		add(true, "alias", a)
	}
	add(p.OwnerUUID != "", "owner_uuid", p.OwnerUUID)
	return text
}

// bandwidthText are limits in the order of their names, each short enough for a mark.
func bandwidthText(limits map[string]uint64) string {
	var all []string
	for _, name := range netdef.LimitNames() {
		value := ""
		if v := limits[name]; v != 0 {
			value = strconv.FormatUint(v, 10)
		}
		all = append(all, value)
	}
	return strings.Join(all, ",")
}

// parseBandwidth reads what bandwidthText writes.
func parseBandwidth(text string) (map[string]uint64, error) {
	values, names := strings.Split(text, ","), netdef.LimitNames()
	if len(values) != len(names) {
		return nil, fmt.Errorf("%d limits, want %d", len(values), len(names))
	}
	limits := make(map[string]uint64)
	for i, value := range values {
		if value == "" {
			continue
		}
		v, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return nil, err
		}
		limits[names[i]] = v
	}
	if len(limits) == 0 {
		limits[names[0]] = 0
	}
	return limits, nil
}

// Marked is the port that a device says it is. ok is false where it says nothing
// of the kind.
func Marked(l bridge.Link) (p store.Port, ok bool) {
	rest, ok := strings.CutPrefix(l.Alias, mark)
	fields := strings.Fields(rest)
	if !ok || l.Kind != "tun" && l.Kind != bridge.KindMacvtap || len(fields) == 0 || !uuidText.MatchString(fields[0]) {
		return store.Port{}, false
	}
	p = store.Port{UUID: strings.ToLower(fields[0]), IfName: l.Name, Index: l.Index, Queues: 1, Lifetime: api.LifetimePersistent}
	for _, field := range fields[1:] {
		key, value, _ := strings.Cut(field, "=")
		if err := setMarked(&p, key, value); err != nil {
			return store.Port{}, false
		}
	}
	p.Lifetime = cmp.Or(p.Lifetime, api.LifetimePersistent)
	return p, len(p.MAC) == 6
}

// setMarked sets what one field of a mark says.
func setMarked(p *store.Port, key, value string) (err error) {
	numbers := map[string]*uint32{"owner": &p.Owner, "class": &p.ClassID}
	switch key {
	case "network":
		p.Network = strings.ToLower(value)
	case "mac":
		p.MAC, err = net.ParseMAC(value)
	case "owner", "class":
		var n uint64
		n, err = strconv.ParseUint(value, 10, 32)
		*numbers[key] = uint32(n)
	case "created":
		var seconds int64
		seconds, err = strconv.ParseInt(value, 10, 64)
		p.Created = time.Unix(seconds, 0)
	case "queues":
		p.Queues, err = strconv.Atoi(value)
	case "alias":
		p.Aliases = append(p.Aliases, value)
	case "address":
		var a netip.Addr
		a, err = netip.ParseAddr(value)
		p.Addrs = append(p.Addrs, a)
	case "portgroup":
		p.PortGroup, err = url.QueryUnescape(value)
	case "id":
		p.ID, err = url.QueryUnescape(value)
	case "node":
		p.Node, err = url.QueryUnescape(value)
	case "allow":
		p.Allow = append(p.Allow, value)
	case "rule":
		var rule string
		rule, err = url.QueryUnescape(value)
		p.Rules = append(p.Rules, rule)
	case "bandwidth":
		p.Bandwidth, err = parseBandwidth(value)
	default:
		setWord(p, key, value)
	}
	if err != nil {
		return fmt.Errorf("mark of port %s: %s: %w", p.UUID, key, err)
	}
	return nil
}

// setWord sets a field whose value is taken as it is, or that is on by being there. One
// that is not known is a younger vnetd's.
func setWord(p *store.Port, key, value string) {
	words := map[string]*string{
		"lifetime": &p.Lifetime, "name": &p.Name, "owner_uuid": &p.OwnerUUID, "guard": &p.Guard,
		"lock": &p.Lock, "mode": &p.Mode, "parent": &p.Parent, "vlan": &p.VLAN,
	}
	if word := words[key]; word != nil {
		*word = value
	}
	for _, t := range toggles(p) {
		*t.on = *t.on || t.key == key
	}
}
