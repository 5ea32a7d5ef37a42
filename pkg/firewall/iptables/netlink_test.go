package iptables

import (
	"bytes"
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nfnetlink"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// FuzzNetlink reads datagrams of any form. What the kernel says is trusted; a
// parser that runs off its end would still take the daemon down.
func FuzzNetlink(f *testing.F) {
	attributes := netlink.AppendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 7))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("nft\x00"))
	whole := nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_NEWGEN), 0, 0, 0, attributes)
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(whole[:len(whole)-3])
	f.Add(nfnetlink.Message(nfnetlink.Type(unix.NFT_MSG_NEWRULE), 0, unix.NFPROTO_IPV4, 0, nfnetlink.RuleAttributes("filter", "FORWARD")))
	f.Add(nfnetlink.Message(unix.NLMSG_ERROR, 0, 0, 0, nil))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		read := 0
		for m := range netlink.Messages(datagram) {
			read += unix.NLMSG_HDRLEN + len(m.Body)
			nfnetlink.ReadGeneration(m)
			learn(firewall.IPv4, "-s 192.0.2.0/24 -i virbr0 -j ACCEPT", nfnetlink.ReadRule(m.Body).Expressions)
			if m.Type == unix.NLMSG_ERROR {
				_ = m.Err()
			}
		}
		if read > len(datagram) {
			t.Errorf("%d bytes read of %d", read, len(datagram))
		}
	})
}

// FuzzLearn takes any expressions for a rule's. What is learned from them makes a
// rule of which the same is learned.
func FuzzLearn(f *testing.F) {
	f.Add("-o virbr0 -j ACCEPT", []byte{})
	f.Add("-j ACCEPT", netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, nfnetlink.Expression("counter", nil)))
	load := nfnetlink.Expression("meta", nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_META_KEY, unix.NFT_META_OIFNAME), unix.NFTA_META_DREG, 1))
	compare := netlink.AppendAttribute(nfnetlink.AppendNumber(nil, unix.NFTA_CMP_OP, 0), unix.NFTA_CMP_DATA, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, []byte("virbr0\x00")))
	f.Add("-o virbr0 -p udp -j ACCEPT", netlink.AppendAttribute(netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, nfnetlink.Expression("cmp", compare)))
	load = nfnetlink.Expression("payload", nfnetlink.AppendNumber(nfnetlink.AppendNumber(nil, unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER), unix.NFTA_PAYLOAD_OFFSET, 16))
	compare = netlink.AppendAttribute(nil, unix.NFTA_CMP_DATA, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, []byte{192, 0, 2}))
	f.Add("! -d 192.0.2.0/24 -j ACCEPT", netlink.AppendAttribute(netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, nfnetlink.Expression("cmp", compare)))
	add := func(args, name string, attributes ...[]byte) {
		f.Add(args, netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, nfnetlink.Expression(name, bytes.Join(attributes, nil))))
	}
	attribute := func(kind uint16, value []byte) []byte { return netlink.AppendAttribute(nil, kind, value) }
	add("-p sctp -m sctp --dport 80:89 -j ACCEPT", "match", attribute(unix.NFTA_MATCH_NAME, []byte("sctp\x00")), attribute(unix.NFTA_MATCH_INFO, []byte{80, 0, 89, 0, 0, 0, 255, 255}))
	lead, _ := leadOperand("192.0.2.1:80")
	add("-j DNAT --to-destination 192.0.2.1:80", "target", attribute(unix.NFTA_TARGET_NAME, []byte("DNAT\x00")), attribute(unix.NFTA_TARGET_INFO, lead))
	f.Fuzz(func(t *testing.T, args string, expressions []byte) {
		made := learn(firewall.IPv4, args, expressions)
		if made == nil {
			return
		}
		_, values := parameterize(firewall.IPv4, args)
		rule := made.attributes(values)
		var again []byte
		for kind, value := range netlink.Attributes(rule) {
			if kind == unix.NFTA_RULE_EXPRESSIONS {
				again = value
			}
		}
		if same := learn(firewall.IPv4, args, again); len(rule) < 1<<16 && (same == nil || !bytes.Equal(same.attributes(values), rule)) {
			t.Errorf("learned anew of %q:\n%x\nwas made\n%x", args, again, rule)
		}
	})
}
