package nft

import (
	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// users is the table of the administrator's own rules, of both families: made once and
// empty, and then nobody's but theirs. In a table of vnetd's they would go with it.
var users = nfnetlink.Place{Family: unix.NFPROTO_INET, Table: firewall.UserTable}

// userPriority is that of the administrator's chains: asked before networks' rules.
const userPriority = -10

// offerUsers makes the administrator's table if there is none. Without it all else works.
// The caller holds mu.
func (w *Writer) offerUsers() {
	if there, err := w.socket.HasTable(users.Family, users.Table); there || err != nil {
		return
	}
	err := w.socket.Commit([][]byte{
		users.NewTable(0, "yours: asked before the rules of vnetd's networks"),
		users.NewChain("VNETD_USER_FWD", &nfnetlink.Hook{Number: unix.NF_INET_FORWARD, Priority: userPriority, Type: "filter"}),
		users.NewChain("VNETD_USER_INP", &nfnetlink.Hook{Number: unix.NF_INET_LOCAL_IN, Priority: userPriority, Type: "filter"}),
	}, 0, func(int, netlink.Message) {})
	if err != nil {
		w.log.Warn("the table for rules of the administrator's could not be made", "table", users.Table, "error", err)
	}
}

// abandonUsers removes the administrator's table unless there is a rule in it, or a chain of
// theirs. The caller holds mu.
func (w *Writer) abandonUsers() {
	there, err := w.socket.HasTable(users.Family, users.Table)
	if !there || err != nil {
		return
	}
	rules, err := w.socket.Rules(users.Family, users.Table, "")
	chains, failed := w.socket.Chains(users)
	if err != nil || failed != nil || len(rules) > 0 || len(chains) > 2 {
		return
	}
	if err := w.socket.Commit([][]byte{users.DeleteTable()}, 0, func(int, netlink.Message) {}); err != nil {
		w.log.Warn("the empty table for rules of the administrator's could not be removed", "table", users.Table, "error", err)
	}
}
