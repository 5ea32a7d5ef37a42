package trace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/cmd/vnetctl/packets"
	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/api"
)

// tableName is that of the tables in which packets are marked to be traced. They go with
// the socket that made them, however this program ends.
const tableName = "vnetd_trace"

// The stages of a packet's way, which are chains of those tables: each traced packet that
// comes there is told. They have no other effect.
const (
	stagePort          = "port"
	stageHost          = "host" // this host's own link in the network
	stageBridge        = "bridge-prerouting"
	stageBridgeForward = "bridge-forward"
	stageBridgeInput   = "bridge-input"
	stageBridgeOut     = "bridge-postrouting"
	stagePrerouting    = "prerouting"
	stageTracked       = "tracked" // connection tracking has seen it
	stageInput         = "input"
	stageForward       = "forward"
	stagePostrouting   = "postrouting"
	stageOutput        = "output"
	stageAnswers       = "answers"
)

// first is the priority before all that others commonly have, and behindTracking and
// behindNAT those behind connection tracking and the first NAT (linux/netfilter_ipv4.h).
const (
	first          = -500
	behindTracking = -150
	behindNAT      = -90
)

// stage is one chain.
type stage struct {
	name     string
	hook     uint32
	priority int32
}

// bridgeStages and inetStages are the chains of the families; netdev has one on each device.
var (
	bridgeStages = []stage{
		{stageBridge, unix.NF_INET_PRE_ROUTING, first},
		{stageBridgeInput, unix.NF_INET_LOCAL_IN, first},
		{stageBridgeForward, unix.NF_INET_FORWARD, first},
		{stageBridgeOut, unix.NF_INET_POST_ROUTING, first},
	}
	inetStages = []stage{
		{stagePrerouting, unix.NF_INET_PRE_ROUTING, first},
		{stageTracked, unix.NF_INET_PRE_ROUTING, behindTracking},
		{stageAnswers, unix.NF_INET_PRE_ROUTING, behindNAT},
		{stageInput, unix.NF_INET_LOCAL_IN, first},
		{stageForward, unix.NF_INET_FORWARD, first},
		{stageOutput, unix.NF_INET_LOCAL_OUT, first},
		{stagePostrouting, unix.NF_INET_POST_ROUTING, first},
	}
)

// marker marks packets for the kernel's trace.
type marker struct{ socket *nfnetlink.Socket }

// mark has the kernel tell of the packets that a port sends and gets, and what it could
// not have it tell of. What comes in by host, unless that is empty, is marked there again:
// between the ends of a veth the kernel takes marks away.
func mark(o Options, host string) (m marker, unseen []string, err error) {
	m.socket, err = nfnetlink.Open()
	if err != nil {
		return m, nil, err
	}
	defer func() {
		if err != nil {
			_ = m.socket.Close()
		}
	}()
	err = m.socket.Commit(o.deviceTable(host), 0, func(int, netlink.Message) {})
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
		return m, nil, api.Errorf(api.Denied, "tracing packets takes the capabilities CAP_NET_ADMIN and CAP_NET_RAW: run it as root")
	}
	if err != nil {
		return m, nil, fmt.Errorf("the kernel does not take the table netdev %s, which marks packets: %w", tableName, err)
	}
	for _, t := range []struct {
		what     string
		messages [][]byte
	}{{"the bridge's rules", o.bridgeTable()}, {"the rules of IP", o.inetTable()}} {
		if refused := m.socket.Commit(t.messages, 0, func(int, netlink.Message) {}); refused != nil {
			unseen = append(unseen, fmt.Sprintf("%s are not traced: %v", t.what, refused))
		}
	}
	return m, unseen, nil
}

// deviceTable marks what the port sends, where it comes in by that and by host.
func (o Options) deviceTable(host string) [][]byte {
	p := nfnetlink.Place{Family: unix.NFPROTO_NETDEV, Table: tableName}
	messages := [][]byte{p.NewTable(nfnetlink.TableOwner, "")}
	for _, at := range []struct{ stage, device string }{{stagePort, o.Port.IfName}, {stageHost, host}} {
		if at.device == "" {
			continue
		}
		messages = append(messages, p.NewChain(at.stage, &nfnetlink.Hook{Number: unix.NF_NETDEV_INGRESS, Priority: first, Type: "filter", Device: at.device}))
		for _, r := range o.sent() {
			messages = append(messages, p.NewRule(at.stage, r...))
		}
	}
	return messages
}

// stages makes a table with the chains of stages.
func stages(p nfnetlink.Place, all []stage) [][]byte {
	messages := [][]byte{p.NewTable(nfnetlink.TableOwner, "")}
	for _, s := range all {
		messages = append(messages, p.NewChain(s.name, &nfnetlink.Hook{Number: s.hook, Priority: s.priority, Type: "filter"}))
	}
	return messages
}

// bridgeTable tells of frames on the bridge, and marks those to the port's card.
func (o Options) bridgeTable() [][]byte {
	p := nfnetlink.Place{Family: unix.NFPROTO_BRIDGE, Table: tableName}
	messages := stages(p, bridgeStages)
	if mac, err := net.ParseMAC(o.Port.MAC); err == nil {
		messages = append(messages, p.NewRule(stageBridge, traced(payload(unix.NFT_PAYLOAD_LL_HEADER, 0, mac))...))
	}
	return messages
}

// inetTable tells of packets of IP, and marks those to the port's addresses.
func (o Options) inetTable() [][]byte {
	p := nfnetlink.Place{Family: unix.NFPROTO_INET, Table: tableName}
	messages := stages(p, inetStages)
	for _, addr := range o.Port.Addresses {
		for _, chain := range []string{stageAnswers, stageForward, stageOutput} {
			match := append(meta(unix.NFT_META_NFPROTO, []byte{protocolFamily(addr)}), destination(addr)...)
			if o.To.IsValid() && o.To.Is4() == addr.Is4() {
				match = append(match, source(o.To)...)
			}
			messages = append(messages, p.NewRule(chain, traced(match)...))
		}
	}
	return messages
}

// sent are the rules that match what is to be traced of what the port sends.
func (o Options) sent() (rules [][][]byte) {
	add := func(kind uint16, matches ...[][]byte) {
		r := meta(unix.NFT_META_PROTOCOL, binary.BigEndian.AppendUint16(nil, kind))
		for _, m := range matches {
			r = append(r, m...)
		}
		rules = append(rules, traced(r))
	}
	protocol, port := func(offset uint32) (m [][]byte) {
		if o.Protocol != 0 {
			m = payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset, []byte{o.Protocol})
		}
		return m
	}, [][]byte(nil)
	if o.ToPort != 0 {
		port = payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 2, binary.BigEndian.AppendUint16(nil, o.ToPort))
	}
	if !o.To.IsValid() || o.To.Is4() {
		add(packets.TypeIPv4, destination(o.To), protocol(9), port)
		add(packets.TypeARP, arpTarget(o.To))
	}
	if !o.To.IsValid() || o.To.Is6() {
		add(packets.TypeIPv6, destination(o.To), protocol(6), port)
		if o.To.IsValid() {
			add(packets.TypeIPv6, payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 6, []byte{packets.ICMPv6}),
				payload(unix.NFT_PAYLOAD_TRANSPORT_HEADER, 8, o.To.AsSlice())) // solicitations (RFC 4861)
		}
	}
	return rules
}

// destination matches the destination of a packet of IP; an invalid one is any.
func destination(addr netip.Addr) [][]byte { return ipAddress(addr, 16, 24) }

// source matches the source of a packet of IP.
func source(addr netip.Addr) [][]byte { return ipAddress(addr, 12, 8) }

func ipAddress(addr netip.Addr, offset4, offset6 uint32) [][]byte {
	switch {
	case !addr.IsValid():
		return nil
	case addr.Is4():
		return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset4, addr.AsSlice())
	}
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, offset6, addr.AsSlice())
}

// arpTarget matches the address that ARP asks for.
func arpTarget(addr netip.Addr) [][]byte {
	if !addr.IsValid() {
		return nil
	}
	return payload(unix.NFT_PAYLOAD_NETWORK_HEADER, 24, addr.AsSlice())
}

// protocolFamily is the family of an address, as meta nfproto has it.
func protocolFamily(addr netip.Addr) byte {
	if addr.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// register is the one that expressions use.
const register = unix.NFT_REG_1

// payload matches bytes of a header.
func payload(base, offset uint32, value []byte) [][]byte {
	load := nfnetlink.AppendNumber(nil, unix.NFTA_PAYLOAD_DREG, register)
	load = nfnetlink.AppendNumber(load, unix.NFTA_PAYLOAD_BASE, base)
	load = nfnetlink.AppendNumber(load, unix.NFTA_PAYLOAD_OFFSET, offset)
	load = nfnetlink.AppendNumber(load, unix.NFTA_PAYLOAD_LEN, uint32(len(value)))
	return [][]byte{nfnetlink.Expression("payload", load), equal(value)}
}

// meta matches what is known of a packet.
func meta(key uint32, value []byte) [][]byte {
	load := nfnetlink.AppendNumber(nil, unix.NFTA_META_DREG, register)
	return [][]byte{nfnetlink.Expression("meta", nfnetlink.AppendNumber(load, unix.NFTA_META_KEY, key)), equal(value)}
}

// equal compares the register.
func equal(value []byte) []byte {
	b := nfnetlink.AppendNumber(nil, unix.NFTA_CMP_SREG, register)
	b = nfnetlink.AppendNumber(b, unix.NFTA_CMP_OP, unix.NFT_CMP_EQ)
	return nfnetlink.Expression("cmp", data(b, unix.NFTA_CMP_DATA, value))
}

// data appends a value.
func data(b []byte, kind uint16, value []byte) []byte {
	return netlink.AppendAttribute(b, unix.NLA_F_NESTED|kind, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, value))
}

// traced has what matches traced from here on: at most so many packets a second, so that
// a guest at full rate is not slowed down.
func traced(match [][]byte) [][]byte {
	const rate, second = 500, 1
	limit := netlink.AppendAttribute(nil, unix.NFTA_LIMIT_RATE, binary.BigEndian.AppendUint64(nil, rate))
	limit = netlink.AppendAttribute(limit, unix.NFTA_LIMIT_UNIT, binary.BigEndian.AppendUint64(nil, second))
	one := nfnetlink.AppendNumber(nil, unix.NFTA_IMMEDIATE_DREG, register)
	set := nfnetlink.AppendNumber(nil, unix.NFTA_META_KEY, unix.NFT_META_NFTRACE)
	set = nfnetlink.AppendNumber(set, unix.NFTA_META_SREG, register)
	return append(match, nfnetlink.Expression("limit", limit), nfnetlink.Expression("immediate", data(one, unix.NFTA_IMMEDIATE_DATA, []byte{1})), nfnetlink.Expression("meta", set))
}

// hop is one thing that the kernel tells of a traced packet.
type hop struct {
	family       uint8
	table, chain string
	rule         uint64 // handle, 0 for the end of a chain
	end          bool   // of a chain that a hook leads to
	dropped      bool
	id           uint32
	frame        packets.Frame // the packet, where the kernel told it here
}

// Limits of what is kept of a trace.
const maxHops = 100000

// hops are those that the kernel told, in order.
type hops struct {
	socket *nfnetlink.Socket
	all    []hop
	lost   bool // there were more
}

// read takes what the kernel has told so far.
func (h *hops) read() error {
	for {
		datagram, err := h.socket.Poll()
		switch {
		case errors.Is(err, unix.ENOBUFS):
			h.lost = true
			continue
		case err != nil:
			return fmt.Errorf("hearing nftables' trace: %w", err)
		case datagram == nil:
			return nil
		}
		for m := range netlink.Messages(datagram) {
			if m.Type != nfnetlink.Type(unix.NFT_MSG_TRACE) {
				continue
			}
			if h.lost = h.lost || len(h.all) >= maxHops; len(h.all) < maxHops {
				h.all = append(h.all, readHop(m.Body))
			}
		}
	}
}

// readHop reads a message of the kernel's trace (nf_tables_trace.c).
func readHop(body []byte) (h hop) {
	if len(body) > 0 {
		h.family = body[0]
	}
	protocol := h.family
	headers := make(map[uint16][]byte)
	for kind, value := range nfnetlink.Attributes(body) {
		switch kind {
		case unix.NFTA_TRACE_TABLE:
			h.table = unix.ByteSliceToString(value)
		case unix.NFTA_TRACE_CHAIN:
			h.chain = unix.ByteSliceToString(value)
		case unix.NFTA_TRACE_TYPE:
			h.end = number(value) == unix.NFT_TRACETYPE_POLICY
		case unix.NFTA_TRACE_RULE_HANDLE:
			h.rule = number(value)
		case unix.NFTA_TRACE_ID:
			h.id = uint32(number(value))
		case unix.NFTA_TRACE_VERDICT:
			h.dropped = h.dropped || verdictDrops(value)
		case unix.NFTA_TRACE_POLICY:
			h.dropped = h.dropped || number(value) == 0 // NF_DROP
		case unix.NFTA_TRACE_NFPROTO:
			protocol = uint8(number(value))
		case unix.NFTA_TRACE_LL_HEADER, unix.NFTA_TRACE_NETWORK_HEADER, unix.NFTA_TRACE_TRANSPORT_HEADER:
			headers[kind] = value
		}
	}
	h.frame = traceFrame(protocol, headers[unix.NFTA_TRACE_LL_HEADER], headers[unix.NFTA_TRACE_NETWORK_HEADER], headers[unix.NFTA_TRACE_TRANSPORT_HEADER])
	return h
}

// number reads a number of any size in network order.
func number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

// verdictDrops reads a verdict (NFTA_VERDICT_CODE): NF_DROP, with or without an error.
func verdictDrops(b []byte) bool {
	for kind, value := range netlink.Attributes(b) {
		if kind == unix.NFTA_VERDICT_CODE && len(value) == 4 {
			code := int32(binary.BigEndian.Uint32(value))
			return code >= 0 && code&0xff == 0
		}
	}
	return false
}

// traceFrame puts together what the kernel tells of a packet, which is the beginning of
// each header.
func traceFrame(protocol uint8, link, network, transport []byte) packets.Frame {
	if len(network) == 0 {
		return packets.Frame{}
	}
	head := network
	kind := uint16(packets.TypeIPv4)
	switch {
	case len(link) >= 14:
		f := packets.Decode(link)
		kind = f.Type
	case protocol == unix.NFPROTO_IPV6, network[0]>>4 == 6:
		kind = packets.TypeIPv6
	}
	switch size := int(network[0]&15) * 4; {
	case kind == packets.TypeIPv4 && size <= len(network):
		head = network[:size]
	case kind == packets.TypeIPv6 && len(network) >= 40:
		head = network[:40]
	}
	if kind != packets.TypeARP {
		head = append(head[:len(head):len(head)], transport...)
	}
	f := packets.DecodePayload(kind, head)
	if len(link) >= 14 {
		l := packets.Decode(link)
		f.Source, f.Destination, f.VLAN = l.Source, l.Destination, l.VLAN
	}
	return f
}
