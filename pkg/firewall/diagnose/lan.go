package diagnose

import (
	"net/netip"

	"github.com/vnetd/vnetd/pkg/firewall"
	"github.com/vnetd/vnetd/pkg/firewall/diagnose/eval"
)

// The kinds of frames that pass a bridge which leads to the LAN, where DHCP and DNS are
// others'.
var (
	kindLAN      = Kind{Name: "lan", Text: "what they send to the LAN"}
	kindLANReply = Kind{Name: "lan-reply", Text: "what comes back from the LAN"}
	kindLANDHCP  = Kind{Name: "lan-dhcp", Text: "DHCP requests to the LAN"}
	kindLANARP   = Kind{Name: "lan-arp", Text: "ARP requests to the LAN"}
)

// bridgeProbes are the frames between guests on a bridge that leads to the LAN and what is
// there. Their guests' addresses are known only as far as the host has one of the same
// subnet on the bridge.
func bridgeProbes(n firewall.Network, facts *Facts) []Probe {
	var all []Probe
	for _, v4 := range []bool{true, false} {
		p := prober{n: n, facts: facts, v4: v4}
		p.lan()
		all = append(all, p.result...)
	}
	return all
}

// lan are the packets of one family.
func (p *prober) lan() {
	guest, uplink := p.facts.ends(p.n.Bridge)
	out, in := p.between(guest, uplink), p.between(uplink, guest)
	far, address := beyond6, p.facts.guestOn(p.n.Bridge, p.v4)
	if p.v4 {
		far = beyond4
	}
	ask := eval.Packet{Src: address, Dst: far, Protocol: eval.TCP, SrcPort: ephemeral, DstPort: https, TCPFlags: synFlag, Cast: eval.ToOther, Connection: fresh}
	p.add(kindLAN, ask, out, true)
	answer := eval.Packet{Src: far, Dst: address, Protocol: eval.TCP, SrcPort: https, DstPort: ephemeral, TCPFlags: synAck, Cast: eval.ToOther, Connection: established(eval.Connection{})}
	p.add(kindLANReply, answer, in, false)
	if !p.v4 {
		return
	}
	p.add(kindLANDHCP, eval.Packet{
		Src: netip.IPv4Unspecified(), Dst: netip.AddrFrom4([4]byte{255, 255, 255, 255}), Protocol: eval.UDP, SrcPort: 68, DstPort: 67, Cast: eval.Broadcast, Connection: fresh,
	}, out, true)
	arp := eval.Packet{Frame: eval.FrameARP, Src: address, ARPOperation: 1, Cast: eval.Broadcast}
	p.add(kindLANARP, arp, eval.Bridged(guest, uplink, p.n.Bridge), true)
}

// guestOn is an address that a guest may have on a bridge on which the host has one, invalid
// where it has none.
func (f *Facts) guestOn(bridge string, v4 bool) netip.Addr {
	host := f.of(bridge, v4)
	for _, p := range f.Addresses {
		if host.IsValid() && p.Addr() == host {
			return guestOf(p)
		}
	}
	return netip.Addr{}
}

// ends are the port of a guest and the one that leads to the LAN: of ports that are no TAP
// devices the first, and another one or the next.
func (f *Facts) ends(bridge string) (guest, uplink string) {
	guest, uplink = eval.Unnamed, eval.Unnamed
	for _, port := range f.Ports[bridge] {
		switch {
		case !f.taps[port] && uplink == eval.Unnamed:
			uplink = port
		case guest == eval.Unnamed:
			guest = port
		}
	}
	return guest, uplink
}
