// Package keep has the kernel go on tracking and translating connections while the
// rules that ask for it are gone, and guests stay away from loopback addresses.
package keep

import (
	"encoding/binary"
	"iter"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// The kernel tracks and translates connections as long as some rule asks for it.
// Whoever flushes the rules ends that too, and before they are mended the packets
// of established connections come to this host as if they were its own, which
// answers with a reset: the guests' connections are lost. A table of our own, that
// no flush takes away because it belongs to our socket, keeps both at work, and goes with
// the process. (linux/netfilter/nf_tables.h, NFT_TABLE_F_OWNER, Linux 5.12)
//
// Guests behind a bridge of which the kernel takes loopback addresses for such as others
// (route_localnet), for the sake of forwards, would reach what listens there while the
// rules against it are gone. So the same table drops what they send to 127.0.0.0/8 or
// from it, before any address is rewritten: answers that are for it have the address of
// the bridge still.

// The table and its chain as nft(8) lists them.
const (
	Table     = "vnetd_keep"
	chainName = "keep"
	comment   = "keeps translated connections while rules are mended"

	// The chain and the set of bridges, which are there as long as there are such.
	loopbackName = "loopback"
	setLooping   = "looping"
)

// Keeper owns the tables, of one family each. The zero value owns none. It is safe for
// concurrent use: writers of rules may share one.
type Keeper struct {
	mu      sync.Mutex                 // guards what follows
	socket  *nfnetlink.Socket          // nil: there are none
	looping []string                   // bridges in the table of IPv4, sorted
	failed  map[firewall.Family]string // why there is none of a family; empty: it is ours
	tried   map[firewall.Family]time.Time
}

// retryPause is how long Hold is not worth another try after it failed: the kernel takes back
// what it refuses, and waits for a grace period of RCU then, of which one takes some 15 ms where
// little is going on (synchronize_rcu in __nf_tables_abort of net/netfilter/nf_tables_api.c).
const retryPause = 2 * time.Second

// Holds reports whether all is as Hold would have it for networks, or Hold has just failed to
// make it so. It stays so, as the kernel lets nobody else change what is ours.
func (k *Keeper) Holds(f firewall.Family, networks iter.Seq[*firewall.Network]) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.has(f) {
		return slices.Equal(k.loopingOf(f), looping(f, networks))
	}
	return !needed(f, networks) || time.Since(k.tried[f]) < retryPause
}

// has reports whether the table of a family is ours. The caller holds mu.
func (k *Keeper) has(f firewall.Family) bool {
	failed, tried := k.failed[f]
	return tried && failed == ""
}

// loopingOf are the bridges in the table of a family. The caller holds mu.
func (k *Keeper) loopingOf(f firewall.Family) []string {
	if f != firewall.IPv4 {
		return nil
	}
	return k.looping
}

// needed reports whether networks need the table of a family.
func needed(f firewall.Family, networks iter.Seq[*firewall.Network]) bool {
	for n := range networks {
		if n.Tracked(f) {
			return true
		}
	}
	return false
}

// looping are the bridges of networks whose guests are kept from loopback addresses of a
// family, sorted: in IPv6 the kernel does that itself.
func looping(f firewall.Family, networks iter.Seq[*firewall.Network]) (all []string) {
	if f != firewall.IPv4 {
		return nil
	}
	for n := range networks {
		if len(n.Forwards) > 0 && n.LoopsIPv4() {
			all = append(all, n.Bridge)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Hold makes the table of a family, which stays, and what of it is for those networks, in
// one transaction; done reports that it did. The error is nil, too, where it is the same as the
// last time: a kernel can't do it, or somebody has a table of that name.
func (k *Keeper) Hold(f firewall.Family, networks iter.Seq[*firewall.Network]) (done bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.socket == nil {
		k.socket, err = nfnetlink.Open()
	}
	wanted := looping(f, networks)
	if err == nil {
		var all [][]byte
		if !k.has(f) {
			all = messages(f)
		}
		all = append(all, loopback(f, k.loopingOf(f), wanted)...)
		err = k.socket.Commit(all, 0, func(int, netlink.Message) {})
	}
	if err == nil && f == firewall.IPv4 {
		k.looping = wanted
	}
	if k.has(f) {
		return err == nil, err
	}
	failed := ""
	if err != nil {
		failed = err.Error()
	}
	if k.failed == nil {
		k.failed, k.tried = make(map[firewall.Family]string), make(map[firewall.Family]time.Time)
	}
	k.tried[f] = time.Now()
	if last, tried := k.failed[f]; tried && last == failed {
		err = nil
	}
	k.failed[f] = failed
	return failed == "", err
}

// Release gives the tables back, which removes them.
func (k *Keeper) Release() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	socket := k.socket
	k.socket, k.failed, k.tried, k.looping = nil, nil, nil, nil
	if socket == nil {
		return nil
	}
	return socket.Close()
}

// messages make the table of one family: a chain for translation, which
// translates nothing, and in it a rule about the state of connections, which does
// nothing.
func messages(f firewall.Family) [][]byte {
	at := nfnetlink.Place{Family: nfproto(f), Table: Table}
	const priority = 100 // NF_IP_PRI_NAT_SRC and NF_IP6_PRI_NAT_SRC
	return [][]byte{
		at.NewTable(nfnetlink.TableOwner, comment),
		at.NewChain(chainName, &nfnetlink.Hook{Number: unix.NF_INET_POST_ROUTING, Priority: priority, Type: "nat"}),
		at.NewRule(chainName, expressions()...),
	}
}

// loopback brings what keeps guests of bridges from loopback addresses from those that it
// is for to those that it shall be for.
func loopback(f firewall.Family, is, wanted []string) (all [][]byte) {
	at := nfnetlink.Place{Family: nfproto(f), Table: Table}
	switch {
	case len(wanted) == 0 && len(is) == 0:
		return nil
	case len(wanted) == 0:
		return [][]byte{at.FlushChain(loopbackName), at.DeleteChain(loopbackName), at.DeleteSet(setLooping)}
	case len(is) == 0:
		const priority = -300 // NF_IP_PRI_RAW
		all = append(all,
			at.NewSet(nfnetlink.Set{Name: setLooping, Key: nfnetlink.DataType{Number: typeIFName, Size: ifNameSize}}, 1),
			at.NewChain(loopbackName, &nfnetlink.Hook{Number: unix.NF_INET_PRE_ROUTING, Priority: priority, Type: "filter"}))
		for _, field := range []uint32{destination, source} {
			all = append(all, at.NewRule(loopbackName, dropLoopback(field)...))
		}
	}
	gone, come := without(is, wanted), without(wanted, is)
	return slices.Concat(all, at.DeleteElements(setLooping, elements(gone)), at.NewElements(setLooping, elements(come)))
}

// typeIFName is the number that nft(8) has for names of devices, ifNameSize their size
// (IFNAMSIZ), and destination and source are where IPv4 has addresses (RFC 791 section 3.1).
const (
	typeIFName  = 41
	ifNameSize  = 16
	destination = 16
	source      = 12
)

// without are names that are not among others.
func without(names, others []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(others, n) })
}

// elements are names of devices in a set.
func elements(names []string) (all []nfnetlink.Element) {
	for _, n := range names {
		key := make([]byte, ifNameSize)
		copy(key, n)
		all = append(all, nfnetlink.Element{Key: key})
	}
	return all
}

// dropLoopback are "iifname @looping", the field of an address in 127.0.0.0/8, and "drop".
func dropLoopback(field uint32) [][]byte {
	number := nfnetlink.AppendNumber
	device := number(number(nil, unix.NFTA_META_DREG, unix.NFT_REG_1), unix.NFTA_META_KEY, unix.NFT_META_IIFNAME)
	look := netlink.AppendAttribute(nil, unix.NFTA_LOOKUP_SET, []byte(setLooping+"\x00"))
	look = number(look, unix.NFTA_LOOKUP_SREG, unix.NFT_REG_1)
	load := number(number(nil, unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER)
	load = number(number(load, unix.NFTA_PAYLOAD_OFFSET, field), unix.NFTA_PAYLOAD_LEN, 1)
	const dropped = 0 // NF_DROP of linux/netfilter.h
	verdict := netlink.AppendAttribute(nil, unix.NLA_F_NESTED|unix.NFTA_DATA_VERDICT, number(nil, unix.NFTA_VERDICT_CODE, dropped))
	drop := number(nil, unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
	drop = netlink.AppendAttribute(drop, unix.NLA_F_NESTED|unix.NFTA_IMMEDIATE_DATA, verdict)
	return [][]byte{
		nfnetlink.Expression("meta", device), nfnetlink.Expression("lookup", look), nfnetlink.Expression("payload", load),
		nfnetlink.Expression("cmp", compared(unix.NFT_CMP_EQ, []byte{127})), nfnetlink.Expression("immediate", drop),
	}
}

// compared is a comparison of what was loaded.
func compared(operator uint32, with []byte) []byte {
	b := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_CMP_SREG, unix.NFT_REG_1), unix.NFTA_CMP_OP, operator)
	return netlink.AppendAttribute(b, unix.NLA_F_NESTED|unix.NFTA_CMP_DATA, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, with))
}

// expressions are "ct state invalid", without a verdict.
func expressions() [][]byte {
	const invalid = 1 // NF_CT_STATE_INVALID_BIT
	data := func(b []byte, kind uint16, n uint32) []byte {
		value := netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, binary.NativeEndian.AppendUint32(nil, n))
		return netlink.AppendAttribute(b, unix.NLA_F_NESTED|kind, value)
	}
	load := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_CT_DREG, unix.NFT_REG_1), unix.NFTA_CT_KEY, unix.NFT_CT_STATE)
	mask := nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), unix.NFTA_BITWISE_DREG, unix.NFT_REG_1)
	mask = data(data(nfnetlink.AppendNumber(mask, unix.NFTA_BITWISE_LEN, 4), unix.NFTA_BITWISE_MASK, invalid), unix.NFTA_BITWISE_XOR, 0)
	return [][]byte{nfnetlink.Expression("ct", load), nfnetlink.Expression("bitwise", mask), nfnetlink.Expression("cmp", compared(unix.NFT_CMP_NEQ, make([]byte, 4)))}
}

// nfproto is a family's number in messages of netfilter.
func nfproto(f firewall.Family) uint8 {
	if f == firewall.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}
