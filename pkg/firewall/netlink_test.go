package firewall

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vnetd/vnetd/internal/nstest"
)

// FuzzNetlink reads datagrams of any form. What the kernel says is trusted; a
// parser that runs off its end would still take the daemon down.
func FuzzNetlink(f *testing.F) {
	attributes := appendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 7))
	attributes = appendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("nft\x00"))
	whole := nftMessage(unix.NFT_MSG_NEWGEN, 0, 1, 0, attributes)
	f.Add(whole)
	f.Add(append(bytes.Clone(whole), whole...))
	f.Add(whole[:len(whole)-3])
	f.Add(nftMessage(unix.NFT_MSG_NEWRULE, 0, 1, unix.NFPROTO_IPV4, ruleAttributes("filter", "FORWARD")))
	f.Add(netfilterMessage(unix.NLMSG_ERROR, 0, 1, 0, 0, nil))
	f.Add([]byte{16, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		read := 0
		for m := range netlinkMessages(datagram) {
			read += unix.NLMSG_HDRLEN + len(m.body)
			m.generation()
			learn(IPv4, "-s 192.0.2.0/24 -i virbr0 -j ACCEPT", m.rule().expressions)
			if m.kind == unix.NLMSG_ERROR {
				_ = m.errno()
			}
		}
		if read > len(datagram) {
			t.Errorf("%d bytes read of %d", read, len(datagram))
		}
	})
}

func TestGenerationIsRead(t *testing.T) {
	attributes := appendAttribute(nil, unix.NFTA_GEN_ID, binary.BigEndian.AppendUint32(nil, 70000))
	attributes = appendAttribute(attributes, unix.NFTA_GEN_PROC_PID, binary.BigEndian.AppendUint32(nil, 12))
	attributes = appendAttribute(attributes, unix.NFTA_GEN_PROC_NAME, []byte("iptables\x00"))
	for m := range netlinkMessages(nftMessage(unix.NFT_MSG_NEWGEN, 0, 1, 0, attributes)) {
		got, ok := m.generation()
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
	f.Add("-j ACCEPT", appendAttribute(nil, unix.NFTA_LIST_ELEM, newExpression("counter", nil)))
	load := newExpression("meta", appendNumber(appendNumber(nil, unix.NFTA_META_KEY, unix.NFT_META_OIFNAME), unix.NFTA_META_DREG, 1))
	compare := appendAttribute(appendNumber(nil, unix.NFTA_CMP_OP, 0), unix.NFTA_CMP_DATA, appendAttribute(nil, unix.NFTA_DATA_VALUE, []byte("virbr0\x00")))
	f.Add("-o virbr0 -p udp -j ACCEPT", appendAttribute(appendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, newExpression("cmp", compare)))
	load = newExpression("payload", appendNumber(appendNumber(nil, unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_NETWORK_HEADER), unix.NFTA_PAYLOAD_OFFSET, 16))
	compare = appendAttribute(nil, unix.NFTA_CMP_DATA, appendAttribute(nil, unix.NFTA_DATA_VALUE, []byte{192, 0, 2}))
	f.Add("! -d 192.0.2.0/24 -j ACCEPT", appendAttribute(appendAttribute(nil, unix.NFTA_LIST_ELEM, load), unix.NFTA_LIST_ELEM, newExpression("cmp", compare)))
	f.Fuzz(func(t *testing.T, args string, expressions []byte) {
		form := learn(IPv4, args, expressions)
		if form == nil {
			return
		}
		_, values := shape(IPv4, args)
		made := form.attributes(values)
		var again []byte
		for kind, value := range attributes(made) {
			if kind == unix.NFTA_RULE_EXPRESSIONS {
				again = value
			}
		}
		if same := learn(IPv4, args, again); len(made) < 1<<16 && (same == nil || !bytes.Equal(same.attributes(values), made)) {
			t.Errorf("learned anew of %q:\n%x\nwas made\n%x", args, again, made)
		}
	})
}

// A transaction on rules that have changed since is refused at once.
func TestCommitAtAnotherGeneration(t *testing.T) {
	nstest.Run(t, func(t *testing.T) {
		s, err := openNFT(0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.close() }()
		before, err := s.current()
		if err != nil {
			t.Fatal(err)
		}
		none := func(int, netlinkMessage) {}
		if err := s.commit(holdOrders(IPv4), before+1, none); !errors.Is(err, unix.ERESTART) {
			t.Errorf("commit at another generation says %v, want %v", err, unix.ERESTART)
		}
		if err := s.commit(holdOrders(IPv4), before, none); err != nil {
			t.Error(err)
		}
		if now, err := s.current(); err != nil || now != before+1 {
			t.Errorf("generation %d, %v, want %d", now, err, before+1)
		}
	})
}

// FuzzNFT reads listings of nft(8) of any form, in which others choose names and
// comments.
func FuzzNFT(f *testing.F) {
	f.Add("table inet mine {\n\tset s {\n\t\ttype ipv4_addr\n\t}\n\n\tchain fwd {\n\t\ttype filter hook forward priority filter; policy drop;\n\t\tcounter packets 0 bytes 0 drop\n\t}\n}\n")
	f.Add("table ip x { # handle 1\n\tchain a {\n\t\tiifname \"virbr*\" log prefix \"x } \" accept\n\t}\n}\n")
	f.Add("\tchain a {\n\t\tdrop\n\t}\ntable\ntable ip6 y {\n\tchain in {\n\t\ttype filter hook")
	f.Fuzz(func(t *testing.T, text string) {
		g := guests{served: []string{"virbr0"}, forwarded: []string{"virbr0"}}
		for _, table := range parseNFT(text) {
			for _, c := range table.conditions(g) {
				if c.Evidence == "" || !strings.Contains(c.Remedy, "virbr0") {
					t.Errorf("condition %+v", c)
				}
			}
		}
	})
}
