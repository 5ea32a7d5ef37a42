package network

import (
	"strings"

	"github.com/vnetd/vnetd/pkg/bridge"
	"github.com/vnetd/vnetd/pkg/netdef"
	"github.com/vnetd/vnetd/pkg/network/port"
)

// What vnetd makes says so of itself, in its ifalias, which takes CAP_NET_ADMIN to
// set: bridges are known by it where their run-state is lost, and ports (see
// package port).
//
//	vnetd network UUID NAME
const networkMark = port.MarkPrefix + "network "

// markOf is the mark of the bridge of a network.
func markOf(doc *netdef.Network) string {
	mark := networkMark + doc.UUID + " " + doc.Name
	return mark[:min(len(mark), port.MarkSize)]
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

// marked lists the links that bear a mark of vnetd's, and logs why it can't.
func (m *Manager) marked() []bridge.Link {
	links, err := m.cfg.Links.Aliased(port.MarkPrefix)
	if err != nil {
		m.log.Error("what has lost its run-state is not recognised", keyError, err)
	}
	return links
}
