package firewall

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
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
