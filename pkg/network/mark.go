package network

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
// set: bridges and ports are known by it where their run-state is lost.
//
//	vnetd network UUID NAME
//	vnetd port UUID network=UUID mac=… KEY=VALUE …
const (
	markPrefix  = "vnetd "
	networkMark = markPrefix + "network "
	portMark    = markPrefix + "port "

	markSize = 255 // IFALIASZ of linux/if.h, less the final NUL
)

// markOf is the mark of the bridge of a network.
func markOf(doc *netdef.Network) string {
	mark := networkMark + doc.UUID + " " + doc.Name
	return mark[:min(len(mark), markSize)]
}

// bears tells whether a bridge has the mark of a network.
func bears(l bridge.Link, uuid string) bool {
	return l.Kind == "bridge" && markedNetwork(l) == strings.ToLower(uuid)
}

// markedNetwork is the UUID of the network whose mark a link has, empty for none.
func markedNetwork(l bridge.Link) string {
	rest, ok := strings.CutPrefix(l.Alias, networkMark)
	if !ok {
		return ""
	}
	uuid, _, _ := strings.Cut(rest, " ")
	return strings.ToLower(uuid)
}

// markOfPort is the mark of a port's device. What makes it too long is left out, the
// owner's words for the port first: the port can do without.
func markOfPort(p store.Port) string {
	mark := portMark + p.UUID
	add := func(wanted bool, key, value string) {
		if field := " " + key + "=" + value; wanted && len(mark)+len(field) <= markSize {
			mark += field
		}
	}
	add(true, "network", p.Network)
	add(true, "mac", p.MAC.String())
	add(true, "lifetime", p.Lifetime)
	add(true, "owner", strconv.FormatUint(uint64(p.Owner), 10))
	add(true, "created", strconv.FormatInt(p.Created.Unix(), 10))
	add(p.Queues > 1, "queues", strconv.Itoa(p.Queues))
	add(p.VnetHdr, "vnet_hdr", "1")
	add(p.Isolated, "isolated", "1")
	add(p.Name != "", "name", p.Name)
	for _, a := range p.Addrs {
		add(true, "address", a.String())
	}
	add(p.ID != "", "id", url.QueryEscape(p.ID))
	add(p.OwnerUUID != "", "owner_uuid", p.OwnerUUID)
	return mark
}

// markedPort is the port that a device says it is. ok is false where it says nothing
// of the kind.
func markedPort(l bridge.Link) (p store.Port, ok bool) {
	rest, ok := strings.CutPrefix(l.Alias, portMark)
	fields := strings.Fields(rest)
	if !ok || l.Kind != "tun" || len(fields) == 0 || !uuidText.MatchString(fields[0]) {
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
	switch key {
	case "network":
		p.Network = strings.ToLower(value)
	case "mac":
		p.MAC, err = net.ParseMAC(value)
	case "lifetime":
		p.Lifetime = value
	case "owner":
		var uid uint64
		uid, err = strconv.ParseUint(value, 10, 32)
		p.Owner = uint32(uid)
	case "created":
		var seconds int64
		seconds, err = strconv.ParseInt(value, 10, 64)
		p.Created = time.Unix(seconds, 0)
	case "queues":
		p.Queues, err = strconv.Atoi(value)
	case "vnet_hdr":
		p.VnetHdr = true
	case "isolated":
		p.Isolated = true
	case "name":
		p.Name = value
	case "address":
		var a netip.Addr
		a, err = netip.ParseAddr(value)
		p.Addrs = append(p.Addrs, a)
	case "id":
		p.ID, err = url.QueryUnescape(value)
	case "owner_uuid":
		p.OwnerUUID = value
	}
	if err != nil {
		return fmt.Errorf("mark of port %s: %s: %w", p.UUID, key, err)
	}
	return nil
}

// marked lists the links that bear a mark of vnetd's, and logs why it can't.
func (m *Manager) marked() []bridge.Link {
	links, err := m.cfg.Links.Aliased(markPrefix)
	if err != nil {
		m.log.Error("what has lost its run-state is not recognised", keyError, err)
	}
	return links
}
