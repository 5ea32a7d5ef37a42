package live

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

// Mark is the mark of the bridge of a network.
func Mark(doc *netdef.Network) string {
	mark := networkMark + doc.UUID + " " + doc.Name
	return mark[:min(len(mark), port.MarkSize)]
}

// Bears reports whether a bridge has the mark of a network.
func Bears(l bridge.Link, uuid string) bool {
	return l.Kind == "bridge" && Marked(l) == strings.ToLower(uuid)
}

// Marked is the UUID of the network whose mark a link has, empty for none.
func Marked(l bridge.Link) string {
	rest, ok := strings.CutPrefix(l.Alias, networkMark)
	if !ok {
		return ""
	}
	uuid, _, _ := strings.Cut(rest, " ")
	return strings.ToLower(uuid)
}
