package iptables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/netlink"
	"github.com/vnetd/vnetd/internal/nstest"
	"github.com/vnetd/vnetd/pkg/firewall"
)

// FuzzNetlink reads datagrams of any form. What the kernel says is trusted; a
// parser that runs off its end would still take the daemon down.
func FuzzNetlink(f *testing.F) {
	attributes := netlink.AppendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 7))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("nft\x00"))
	whole := nftMessage(nftType(unix.NFT_MSG_NEWGEN), 0, 0, 0, attributes)
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(whole[:len(whole)-3])
	f.Add(nftMessage(nftType(unix.NFT_MSG_NEWRULE), 0, unix.NFPROTO_IPV4, 0, ruleAttributes("filter", "FORWARD")))
	f.Add(nftMessage(unix.NLMSG_ERROR, 0, 0, 0, nil))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		read := 0
		for m := range netlink.Messages(datagram) {
			read += unix.NLMSG_HDRLEN + len(m.Body)
			readGeneration(m)
			learn(firewall.IPv4, "-s 192.0.2.0/24 -i virbr0 -j ACCEPT", readRule(m.Body).expressions)
			if m.Type == unix.NLMSG_ERROR {
				_ = m.Err()
			}
		}
		if read > len(datagram) {
			t.Errorf("%d bytes read of %d", read, len(datagram))
		}
	})
}

func TestGenerationIsRead(t *testing.T) {
	attributes := netlink.AppendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 70000))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_PID, binary.BigEndian.AppendUint32(nil, 12))
	attributes = netlink.AppendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("iptables\x00"))
	for m := range netlink.Messages(nftMessage(nftType(unix.NFT_MSG_NEWGEN), 0, 0, 0, attributes)) {
		got, ok := readGeneration(m)
		if want := (generation{id: 70000, process: "iptables"}); !ok || got != want {
			t.Errorf("generation %+v, %v, want %+v", got, ok, want)
		}
		return
	}
	t.Error("no message")
}

// FuzzLearn takes any expressions for a rule's. What is learned from them makes a
// rule of which the same is learned.
func FuzzLearn(f *testing.F) {
	f.Add("-o virbr0 -j ACCEPT", []byte{})
	f.Add("-j ACCEPT", netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, newExpression("counter", nil)))
	load := newExpression("meta", appendNumber(appendNumber(nil, unix.NFTA_META_KEY, unix.NFT_META_OIFNAME), unix.NFTA_META_DREG, 1))
	compare := netlink.AppendAttribute(appendNumber(nil, unix.NFTA_CMP_OP, 0), unix.NFTA_CMP_DATA, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, []byte("virbr0\x00")))
	f.Add("-o virbr0 -p udp -j ACCEPT", netlink.AppendAttribute(netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, newExpression("cmp", compare)))
	load = newExpression("payload", appendNumber(appendNumber(nil, unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER), unix.NFTA_PAYLOAD_OFFSET, 16))
	compare = netlink.AppendAttribute(nil, unix.NFTA_CMP_DATA, netlink.AppendAttribute(nil, unix.NFTA_DATA_VALUE, []byte{192, 0, 2}))
	f.Add("! -d 192.0.2.0/24 -j ACCEPT", netlink.AppendAttribute(netlink.AppendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, newExpression("cmp", compare)))
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

// A transaction on rules that have changed since is refused at once.
func TestCommitAtAnotherGeneration(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := openNFT()
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		before, err := s.current()
		if err != nil {
			t.Fatal(err)
		}
		none := func(int, netlink.Message) {}
		if err := s.commit(keeperMessages(firewall.IPv4), before+1, none); !errors.Is(err, unix.ERESTART) {
			t.Errorf("commit at another generation says %v, want %v", err, unix.ERESTART)
		}
		if err := s.commit(keeperMessages(firewall.IPv4), before, none); err != nil {
			t.Error(err)
		}
		if now, err := s.current(); err != nil || now != before+1 {
			t.Errorf("generation %d, %v, want %d", now, err, before+1)
		}
	})
}
